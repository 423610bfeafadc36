#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""examples/nginx.conf with a real nginx and two replicas: every question about a picture goes to the replica that
encoded it, pictures spread over both, streams pass token by token, and a replica may stop without anybody noticing.

    tests/dev/check_nginx.py [--ballast PROGRAM] [--model MODEL]

Needs nginx (Debian: nginx-light); without it the check is skipped with a line."""
import argparse
import base64
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.environ.get("BALLAST_SOURCE_DIR") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PICTURES = [f"demo/data/pictures/calib{i:03}.png" for i in (0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 14)]
failures = []


def check(good, what):
    print(("ok    " if good else "FAIL  ") + what, flush=True)
    if not good:
        failures.append(what)


class Replica:
    def __init__(self, program, model, port=0):
        self.process = subprocess.Popen([program, "serve", model, "--name", "m", "--port", str(port), "--grace", "5", "--threads", "1"],
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("a replica does not start")

    def metric(self, name):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        c.request("GET", "/metrics")
        return float(re.search(rf"^ballast:{name}{{.*}} (\S+)$", c.getresponse().read().decode(), re.M)[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def post(port, body, slashes=False, origin=None):
    text = json.dumps(body)
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    c.request("POST", "/v1/chat/completions", text.replace("/", "\\/") if slashes else text,
              {"Content-Type": "application/json", **({"Origin": origin} if origin else {})})
    return c.getresponse()


def question(url, text, before=()):
    return {"model": "m", "max_tokens": 8, "temperature": 0,
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}},
                                                      {"type": "text", "text": "What is it?"}]}, *before,
                         {"role": "user", "content": text}] if before else
            [{"role": "user", "content": [{"type": "text", "text": text},
                                          {"type": "image_url", "image_url": {"url": url}}]}]}


def start_nginx(folder, replicas):
    with open(os.path.join(ROOT, "examples/nginx.conf")) as f:
        text = f.read()
    for old, new in zip(("8081", "8082"), replicas):
        text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new.port}")
    port = 20000 + os.getpid() % 20000
    text = re.sub(r"listen \S+;", f"listen 127.0.0.1:{port};", text)
    with open(os.path.join(folder, "site.conf"), "w") as f:
        f.write(text)
    with open(os.path.join(folder, "nginx.conf"), "w") as f:
        f.write(f"pid {folder}/pid;\nerror_log {folder}/error.log warn;\nevents {{}}\nhttp {{\n  access_log off;\n"
                + "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
                + f"  include {folder}/site.conf;\n}}\n")
    command = ["nginx", "-p", folder, "-c", os.path.join(folder, "nginx.conf")]
    subprocess.run([*command, "-t", "-q"], check=True)
    process = subprocess.Popen([*command, "-g", "daemon off; master_process off;"])
    time.sleep(0.5)
    return process, port


def run(program, model, folder):
    replicas = [Replica(program, model) for _ in range(2)]
    warm = [r.metric("images_encoded_total") for r in replicas]
    nginx, port = start_nginx(folder, replicas)
    try:
        urls = []
        for name in PICTURES:
            with open(os.path.join(ROOT, name), "rb") as f:
                urls.append("data:image/png;base64," + base64.b64encode(f.read()).decode())
        statuses = []
        for turn in range(4):
            for i, url in enumerate(urls):
                before = [] if turn < 2 else [{"role": "assistant", "content": "A picture."}]
                statuses.append(post(port, question(url, f"Question {turn} about {i}?", before), slashes=i % 2 == 1).status)
        check(set(statuses) == {200}, f"{len(statuses)} questions about {len(urls)} pictures are answered: {set(statuses)}")
        encoded = [r.metric("images_encoded_total") - w for r, w in zip(replicas, warm)]
        check(sum(encoded) == len(urls), f"each picture was encoded once, by the replica it belongs to: {encoded}")
        check(all(encoded), "and both replicas have some")

        here = f"http://127.0.0.1:{port}"
        check([post(port, question(urls[0], "Hello?"), origin=o).status for o in (here, "http://evil.example")] == [200, 403],
              "the page at nginx's address may ask, others may not")

        stream = post(port, {**question(urls[0], "Describe the picture."), "stream": True, "max_tokens": 200, "ignore_eos": True})
        arrivals = []
        while True:
            line = stream.readline()
            if not line:
                break
            if line.startswith(b"data: "):
                arrivals.append(time.monotonic())
                last = line.strip()
        check(last == b"data: [DONE]" and len(arrivals) > 20, f"a stream of {len(arrivals)} events")
        check(arrivals[-1] - arrivals[0] > 5 * (arrivals[1] - arrivals[0]) and arrivals[-1] - arrivals[0] > 0.02, "passed on as they come")

        check(replicas[0].stop() == 0, "a replica stops")
        statuses = [post(port, question(url, "Still there?"), i % 2 == 1).status for i, url in enumerate(urls)]
        check(set(statuses) == {200}, f"its pictures go to the other one: {statuses}")
        replicas[0] = Replica(program, model, replicas[0].port)
        time.sleep(10.5)  # nginx looks after a failed server again after 10 s
        warm = replicas[0].metric("images_encoded_total")
        for i, url in enumerate(urls):
            post(port, question(url, "And now?"), slashes=i % 2 == 1).read()
        check(replicas[0].metric("images_encoded_total") - warm == encoded[0], "and come back with it")
    finally:
        nginx.send_signal(signal.SIGTERM)
        nginx.wait(10)
        for r in replicas:
            r.stop()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ballast", default=os.path.join(ROOT, "build/ballast"))
    p.add_argument("--model", default=os.path.join(ROOT, "demo/model"))
    options = p.parse_args()
    if not shutil.which("nginx"):
        print("skipped: no nginx here (Debian: apt-get install nginx-light)")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        run(options.ballast, options.model, folder)
    print(f"{len(failures)} failed" if failures else "all good")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
