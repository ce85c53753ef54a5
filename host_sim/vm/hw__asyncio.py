"""Stand-in for the C module `_asyncio` (TaskQueue, Task) that stamps keyless pushes with the virtual clock.

The C queue stamps them with the host's clock. Same interface otherwise; equal keys run first come, first served.
"""

from hw_time import ticks_diff
from sim_clock import ticks_ms


class TaskQueue:
    def __init__(self):
        self.q = []

    def peek(self):
        return self.q[0] if self.q else None

    def push(self, task, key=None):
        task.data = None
        if key is None:
            key = ticks_ms()
        task.ph_key = key
        q = self.q
        i = len(q)
        while i and ticks_diff(q[i - 1].ph_key, key) > 0:
            i -= 1
        q.insert(i, task)

    def pop(self):
        return self.q.pop(0)

    def remove(self, task):
        self.q.remove(task)


class Task:
    def __init__(self, coro, globals=None):
        self.coro = coro
        self.data = None
        self.state = True  # True: running; TaskQueue: running and awaited; False/None: done
        self.ph_key = 0
        if globals is not None:
            Task.context = globals

    def done(self):
        return not self.state

    def cancel(self):
        if not self.state:
            return False
        core = Task.context
        if self is core["cur_task"]:
            raise RuntimeError("can't cancel self")
        task = self
        while isinstance(task.data, Task):
            task = task.data
        queue = core["_task_queue"]
        if hasattr(task.data, "remove"):
            task.data.remove(task)
            queue.push(task)
        elif ticks_diff(task.ph_key, ticks_ms()) > 0:
            queue.remove(task)
            queue.push(task)
        task.data = core["CancelledError"]
        return True

    def __iter__(self):
        if not self.state:
            self.state = False
        elif self.state is True:
            self.state = TaskQueue()
        elif not isinstance(self.state, TaskQueue):
            raise RuntimeError("can't wait")
        return self

    def __next__(self):
        if not self.state:
            raise self.data
        cur = Task.context["cur_task"]
        self.state.push(cur)
        cur.data = self
