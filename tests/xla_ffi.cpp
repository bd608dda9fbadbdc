// Compiled, never run: csrc/capi/xla_ffi.h against the header that JAX carries.
#include <xla/ffi/api/c_api.h>

#include "../csrc/capi/xla_ffi.h"

namespace x = fastcv::xla;

#define SAME(ours, member, theirs, their_member)                                                                   \
    static_assert(offsetof(x::ours, member) == offsetof(theirs, their_member) &&                                    \
                  sizeof(x::ours::member) == sizeof(theirs::their_member))
#define SAME_SIZE(ours, theirs) static_assert(sizeof(x::ours) == sizeof(theirs))
#define SAME_VALUE(ours, theirs) static_assert(int(x::ours) == int(theirs))

SAME(Extension, type, XLA_FFI_Extension_Base, type);
SAME(Extension, next, XLA_FFI_Extension_Base, next);
SAME_SIZE(Extension, XLA_FFI_Extension_Base);
SAME(Version, extensions, XLA_FFI_Api_Version, extension_start);
SAME(Version, major, XLA_FFI_Api_Version, major_version);
SAME(Version, minor, XLA_FFI_Api_Version, minor_version);
SAME_SIZE(Version, XLA_FFI_Api_Version);
SAME(Metadata, version, XLA_FFI_Metadata, api_version);
SAME(Metadata, traits, XLA_FFI_Metadata, traits);
SAME(MetadataExtension, metadata, XLA_FFI_Metadata_Extension, metadata);
SAME(ErrorArguments, message, XLA_FFI_Error_Create_Args, message);
SAME(ErrorArguments, code, XLA_FFI_Error_Create_Args, errc);
SAME(Api, version, XLA_FFI_Api, api_version);
SAME(Api, create_error, XLA_FFI_Api, XLA_FFI_Error_Create);
SAME(Buffer, dtype, XLA_FFI_Buffer, dtype);
SAME(Buffer, data, XLA_FFI_Buffer, data);
SAME(Buffer, rank, XLA_FFI_Buffer, rank);
SAME(Buffer, shape, XLA_FFI_Buffer, dims);
SAME(Text, characters, XLA_FFI_ByteSpan, ptr);
SAME(Text, length, XLA_FFI_ByteSpan, len);
SAME(Values, dtype, XLA_FFI_Array, dtype);
SAME(Values, count, XLA_FFI_Array, size);
SAME(Values, data, XLA_FFI_Array, data);
SAME(Arguments, count, XLA_FFI_Args, size);
SAME(Arguments, types, XLA_FFI_Args, types);
SAME(Arguments, values, XLA_FFI_Args, args);
SAME_SIZE(Arguments, XLA_FFI_Args);
SAME(Results, count, XLA_FFI_Rets, size);
SAME(Results, types, XLA_FFI_Rets, types);
SAME(Results, values, XLA_FFI_Rets, rets);
SAME_SIZE(Results, XLA_FFI_Rets);
SAME(Attributes, count, XLA_FFI_Attrs, size);
SAME(Attributes, types, XLA_FFI_Attrs, types);
SAME(Attributes, names, XLA_FFI_Attrs, names);
SAME(Attributes, values, XLA_FFI_Attrs, attrs);
SAME(CallFrame, extensions, XLA_FFI_CallFrame, extension_start);
SAME(CallFrame, api, XLA_FFI_CallFrame, api);
SAME(CallFrame, stage, XLA_FFI_CallFrame, stage);
SAME(CallFrame, arguments, XLA_FFI_CallFrame, args);
SAME(CallFrame, results, XLA_FFI_CallFrame, rets);
SAME(CallFrame, attributes, XLA_FFI_CallFrame, attrs);

SAME_VALUE(ExtensionType::metadata, XLA_FFI_Extension_Metadata);
SAME_VALUE(ErrorCode::invalid_argument, XLA_FFI_Error_Code_INVALID_ARGUMENT);
SAME_VALUE(ErrorCode::resource_exhausted, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
SAME_VALUE(ErrorCode::out_of_range, XLA_FFI_Error_Code_OUT_OF_RANGE);
SAME_VALUE(ErrorCode::internal, XLA_FFI_Error_Code_INTERNAL);
SAME_VALUE(DataType::boolean, XLA_FFI_DataType_PRED);
SAME_VALUE(DataType::int32, XLA_FFI_DataType_S32);
SAME_VALUE(DataType::int64, XLA_FFI_DataType_S64);
SAME_VALUE(DataType::float32, XLA_FFI_DataType_F32);
SAME_VALUE(DataType::float64, XLA_FFI_DataType_F64);
SAME_VALUE(ArgumentType::buffer, XLA_FFI_ArgType_BUFFER);
SAME_VALUE(ResultType::buffer, XLA_FFI_RetType_BUFFER);
SAME_VALUE(AttributeType::array, XLA_FFI_AttrType_ARRAY);
static_assert(x::kMajorVersion == XLA_FFI_API_MAJOR && x::kMinorVersion <= XLA_FFI_API_MINOR);
