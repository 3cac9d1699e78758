"`vlmsi` in a process of its own, killed at a chosen write; imported by forked children, so it imports little itself."
import gc, os, signal, sys, threading

EVERY_START = 'log.jsonl', 'recipe.yaml', 'run.json', 'run.json.tmp', '.lock', '.lock.json', '.lock.json.tmp'


def watch(folder, note, last, delay):
    "Write down each file written or moved in `folder`; `delay` seconds after the `last`-th such event, SIGKILL."
    fd, n = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 0
    def hook(event, args):
        nonlocal n
        if event == 'open': path, written = str(args[0]), isinstance(args[1], str) and set(args[1]) & set('wax+')
        elif event == 'os.rename': path, written = str(args[1]), True
        else: return
        # every start writes these; they are no progress
        if not written or not path.startswith(folder) or path.endswith(EVERY_START): return
        n += 1
        os.write(fd, f'{event} {path[len(folder) + 1:]}\n'.encode())
        if n == last: threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    sys.addaudithook(hook)  # stays for good: the process has only this one job


def work(argv, folder, note, last=0, delay=0.):
    "Run the command; what it prints goes to `note`.txt."
    import torch
    from vlm_selfimprove.app.cli import main
    torch.set_num_threads(1)
    gc.freeze()  # what was imported before the fork: each training would look through it
    out = os.open(f'{note}.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for fd in (1, 2): os.dup2(out, fd)
    watch(folder, note, last, delay)
    sys.exit(main(argv))
