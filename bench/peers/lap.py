"""lap, Jonker and Volgenant's own algorithm in C++, on one thread."""

import lap


class Lap:
    version = lap.__version__

    def __init__(self, threads):
        pass

    def arrays(self, result):
        return result
