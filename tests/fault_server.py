"""A teacher's server without a model: it replays recorded replies, and does on purpose what servers do by accident.

`python tests/fault_server.py` records the replies anew, from the language model that ships."""
import hashlib, json, threading, time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

RECORDED = Path(__file__).with_name('teacher_replies.json')
FAULTS = {  # what the server does -> what the client has to call it
    '429': 'HTTP 429', '500': 'HTTP 500', '502': 'HTTP 502', '503': 'HTTP 503', 'slow': 'timed out',
    'cut': 'connection lost', 'dropped': 'connection lost', 'garbage': 'no JSON', 'page': 'no JSON',
    'empty': 'no answer in the reply', 'nothing': 'no answer in the reply', 'echo': 'HTTP 500'}
OFTEN = [k for k in FAULTS if k != 'slow'] * 8 + ['slow']  # one who waits costs seconds


def recorded(prompt, replies):
    "The reply that belongs to a prompt: text, finish, tokens."
    n = int(hashlib.sha256(prompt.encode()).hexdigest(), 16)
    r = replies[n % len(replies)]
    return dict(r, text=f"{r['text']}\n[{prompt}]", usage=n % 40 > 0)


def completion(r):
    "A reply as the protocol has it. Some servers do not count tokens."
    usage = dict(usage=dict(prompt_tokens=r['tokens_in'], completion_tokens=r['tokens_out'])) if r['usage'] else {}
    message = dict(role='assistant', content=r['text'])
    return dict(object='chat.completion', choices=[dict(index=0, message=message, finish_reason=r['finish'])]) | usage


def drawn(seed, prompt, attempt, share, kinds):
    "What happens to this attempt: a kind of fault, or ''. It hangs on the prompt and the attempt alone."
    n = int(hashlib.sha256(f'{seed}|{prompt}|{attempt}'.encode()).hexdigest(), 16)
    return kinds[n // 10**6 % len(kinds)] if n % 10**6 < share * 10**6 else ''


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = 'HTTP/1.1', True

    def log_message(self, *args): return None

    def say(self, status, body, more=(), length=None):
        "Everything in one packet. A body shorter than promised, and the connection is closed behind it."
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f'HTTP/1.1 {status} X', 'Content-Type: application/json', f'Content-Length: {length or len(body)}', *more]
        self.wfile.write('\r\n'.join([*lines, '', '']).encode() + body)
        self.close_connection = self.close_connection or length is not None

    def fail(self, kind, said):
        "One fault."
        if kind == '429': return self.say(429, dict(error=dict(message='slow down')), [f'Retry-After: {self.server.rest}'])
        if kind in ('500', '502', '503'): return self.say(int(kind), b'upstream is gone')
        if kind == 'echo': return self.say(500, dict(error=dict(message=f"cannot log in {self.headers['Authorization']}")))
        if kind == 'garbage': return self.say(200, b'{"choices": [{"message": \xff\xfe')
        if kind == 'page': return self.say(200, b'<html>We will be back soon</html>')
        if kind == 'empty': return self.say(200, dict(said, choices=[]))
        if kind == 'nothing': return self.say(200, dict(said, choices=[dict(message=None, finish_reason='stop')]))
        self.close_connection = True
        if kind == 'slow': return self.rfile.read(1)  # until the client has had enough
        if kind == 'cut':
            half = json.dumps(said).encode()
            return self.say(200, half[:len(half) // 2], length=len(half))
        assert kind == 'dropped', kind

    def do_POST(self):
        s, asked = self.server, json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        prompt = asked['messages'][-1]['content']
        with s.lock:
            attempt = s.asked[prompt]
            s.asked[prompt] += 1
            s.times.append(time.monotonic())
            s.requests.append(asked)
            s.busy += 1
            s.most = max(s.most, s.busy)
        kind = s.script(prompt, attempt)
        said = completion(recorded(prompt, s.replies))
        with s.lock: s.injected[kind] += bool(kind)
        try: self.fail(kind, said) if kind else self.answer(prompt, said)
        finally:
            with s.lock: s.busy -= 1

    def answer(self, prompt, said):
        if self.server.pause: time.sleep(self.server.pause)
        if prompt == 'repeat my key': said['choices'][0]['message']['content'] = self.headers['Authorization']
        if prompt in self.server.refused: return self.say(*self.server.refused[prompt])
        with self.server.lock: self.server.answered[prompt] += 1
        self.say(200, said)


class Quiet(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, request, address): return None  # a client that has gone


@contextmanager
def fault_server(
    script=lambda prompt, attempt: '',  # kind of fault that happens to an attempt, counted from 0
    refused={},  # prompt -> status and body of the answer that it always gets
    rest='0.02',  # what a 429 says in Retry-After
    pause=0.,  # seconds before an answer
):  # url; Counters: asked, answered (by prompt), injected (by kind); requests, times, most (at a time)
    "A server on the loopback, for as long as the `with` lasts."
    s = Quiet(('127.0.0.1', 0), Handler)
    for k, v in dict(script=script, refused=refused, rest=rest, pause=pause, busy=0, most=0, lock=threading.Lock(),
                     asked=Counter(), answered=Counter(), injected=Counter(), times=[], requests=[],
                     replies=json.loads(RECORDED.read_text()), url=f'http://127.0.0.1:{s.server_port}/v1').items():
        setattr(s, k, v)
    thread = threading.Thread(target=s.serve_forever, args=(.05,), daemon=True)
    thread.start()
    try: yield s
    finally:
        s.shutdown()
        s.server_close()


def record():
    "Twenty replies of the language model that ships; some of them are cut."
    import numpy as np
    from vlm_selfimprove.data.prompts import TEXT_MICRO
    from vlm_selfimprove.models.micro import micro_path
    from vlm_selfimprove.models.teacher import ask_teacher, load_teacher
    from vlm_selfimprove.world.scenes import mk_scene
    from vlm_selfimprove.world.tasks import decision_json
    rng = np.random.default_rng(13)
    shown = [decision_json(mk_scene(1_000_000 + i, 'situation'), rng) for i in range(20)]
    asks = [dict(id=f'r{i}', prompt=TEXT_MICRO['request'].format(examples=x, n=1)) for i, x in enumerate(shown)]
    lm = load_teacher(micro_path('micro-lm'))
    replies = ask_teacher(lm, asks[:16], 160, .7) + ask_teacher(lm, asks[16:], 40, .7)
    keep = lambda r: {k: getattr(r, k) for k in ('text', 'finish', 'tokens_in', 'tokens_out')}
    RECORDED.write_text(json.dumps([keep(r) for r in replies], indent=1) + '\n')


if __name__ == '__main__': record()
