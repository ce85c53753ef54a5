"""The seam the truth probe wraps, in a firmware of thirty lines."""


class Batcher:
    def __init__(self, ids, path):
        self.ids, self.path = ids, path

    def append(self, t, values, present):
        with open(self.path, "ab") as f:
            f.write(b"%d %d\n" % (t, values[0]))
