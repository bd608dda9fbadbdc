"""fastcv itself, called as a user calls it."""

import fastcv


class Fastcv:
    version = fastcv.__version__

    def __init__(self, threads):
        fastcv.set_num_threads(threads)

    def arrays(self, result):
        return result if isinstance(result, tuple) else (result,)
