// What other compiled code reaches by capsules: the C interface's table, and XLA's handlers.
#include "../capi/arrays.h"
#include "../capi/xla.h"
#include "core.h"

namespace fastcv {

void bind_capi(py::module_& m) {
    m.attr("c_api") = py::capsule(&capi::table(), FASTCV_CAPSULE_NAME);
    py::dict handlers;
    for (const xla::Handler* h = xla::kHandlers; h->name; h++)
        handlers[h->name] = py::capsule(reinterpret_cast<void*>(h->function), "xla._CUSTOM_CALL_TARGET");
    m.attr("xla_handlers") = handlers;
}

}  // namespace fastcv
