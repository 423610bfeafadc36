#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The page of `ballast serve` in a real browser, as a person uses it: drop a picture, ask, watch, stop, ask again,
by mouse, by keyboard alone and on a phone; and what goes wrong. Nothing may appear on the console, nothing may be
asked for outside the server.

    tests/dev/check_page.py [--shots DIR] [--ballast PROGRAM] [--models MODEL MODEL]

Needs Chromium (Debian: chromium); without it the check is skipped with a line. Without --models it serves the
embedded model and a 2-bit copy that it makes itself."""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from chromium import Browser, Timeout  # noqa: E402

ROOT = os.environ.get("BALLAST_SOURCE_DIR") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERO = os.path.join(ROOT, "demo/hero.png")
OTHER = os.path.join(ROOT, "demo/data/pictures/calib000.png")
failures = []


def check(good, what):
    print(("ok    " if good else "FAIL  ") + what, flush=True)
    if not good:
        failures.append(what)


class Server:
    def __init__(self, program, *arguments):
        self.process = subprocess.Popen([program, "serve", "--port", "0", "--grace", "2", *arguments],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(self.process.stderr.read())
        self.url = line.split()[-1]

    def ready(self):
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(self.process.stderr.read())
        return self

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


# ---- What the page shows ----------------------------------------------------------------------------

ANSWERS = "[...document.querySelectorAll('.turn:last-child .answer')]"
DONE = ("!document.getElementById('send').hidden && "
        f"{ANSWERS}.length && {ANSWERS}.every(a => a.querySelector('.facts, .trouble, .note'))")


def texts(b):
    return b.js(f"{ANSWERS}.map(a => a.querySelector('.said').textContent)")


def facts(b):
    """Of each answer of the last turn: {name: value}."""
    return b.js(f"{ANSWERS}.map(a => Object.fromEntries([...a.querySelectorAll('.facts > div')]"
                ".map(d => [d.children[0].textContent, d.children[1].textContent])))")


def ask(b, question):
    b.js("document.getElementById('question').focus()")
    b.write(question)
    b.key("Enter")


def wait_measured(b, n):
    """Until each of n pictures of the tray says what it takes."""
    b.wait(f"document.querySelectorAll('#tray .picture').length === {n} && "
           "[...document.querySelectorAll('#tray figcaption')].every(c => c.textContent !== '…')")


def overflow(b):
    """Elements that stick out of the window sideways."""
    return b.js("[...document.querySelectorAll('body *')].filter(e => { const r = e.getBoundingClientRect();"
                "return r.width && !e.closest('.unseen, .skip, #tray, #models, svg') && (r.right > innerWidth + 1 || r.left < -1); })"
                ".map(e => e.tagName + '.' + e.className)")


def unnamed(b):
    """Controls without an accessible name, as the browser computes it."""
    nodes = b.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "spinbutton", "checkbox", "image", "img", "dialog", "combobox", "link")
    return [n["role"]["value"] for n in nodes if not n.get("ignored") and n.get("role", {}).get("value") in roles
            and not n.get("name", {}).get("value")]


def contrast(b):
    """Pairs of text and background nearer than 4.5:1, colours composed over what lies below."""
    return b.js("""(() => {
      const parse = (s) => { const m = s.match(/[\\d.]+/g).map(Number); return s.startsWith("color(")
          ? [...m.slice(0, 3).map((x) => 255 * x), m[3] ?? 1] : [m[0], m[1], m[2], m[3] ?? 1]; };
      const lum = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => { const v = c[i] / 255;
          return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
      const below = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
          if (c[3] > 0.99) return c; } return [255, 255, 255, 1]; };
      const bad = [];
      for (const e of document.querySelectorAll("body *")) {
        if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
        if (!e.getClientRects().length || e.closest(".unseen, noscript, script") || e.disabled) continue;
        const a = lum(parse(getComputedStyle(e).color)), z = lum(below(e));
        const r = (Math.max(a, z) + 0.05) / (Math.min(a, z) + 0.05);
        if (r < 4.5) bad.push(`${e.tagName}.${e.className} ${r.toFixed(2)}`);
      }
      return [...new Set(bad)];
    })()""")


# ---- A person with a mouse --------------------------------------------------------------------------

def first_questions(b, shoot):
    b.wait("document.querySelectorAll('button.model').length === 2")
    cards = b.js("[...document.querySelectorAll('.model')].map(m => m.textContent)")
    check(all(re.search(r"\d\.\d\d bits per weight · [\d.]+ [kM]B$|\d\d\.\d\d bits per weight · [\d.]+ [kM]B$", c)
              for c in cards), f"models say bits and size: {cards}")
    shoot("welcome")
    b.drop([HERO])
    wait_measured(b, 1)
    caption = b.js("document.querySelector('#tray figcaption').textContent")
    check(re.match(r"768 × 512 · \d × \d tiles and overview · [\d,]+ tokens$", caption), "a dropped picture: " + caption)
    check(b.js("!!document.querySelector('#tray svg.grid path').getAttribute('d')"), "lines between its tiles")
    room = b.wait("document.getElementById('room').textContent")
    check(re.match(r"[\d,]+ of [\d,]+ tokens$", room), "room of the conversation: " + room)
    shoot("picture")
    b.js("window.lengths = []; new MutationObserver(() => { const n = document.querySelector('.said')?.textContent.length;"
         "if (n && n !== lengths.at(-1)) lengths.push(n); }).observe(document.getElementById('talk'), "
         "{subtree: true, childList: true, characterData: true})")
    b.click("#hints button")
    b.wait(DONE, 300)
    said, told = texts(b), facts(b)
    check(all(said) and len(said) == 2, f"two answers side by side: {said}")
    check(b.js("lengths.length") > 3, f"the answer arrived in {b.js('lengths.length')} pieces")
    wanted = {"encode", "prefill", "decode", "speed", "answer", "prompt", "from cache", "picture"}
    check(all(wanted <= set(f) for f in told), f"figures: {told[0]}")
    check(all("of pictures" in f["prompt"] and f["picture"] == "encoded now" for f in told), "pictures in the figures")
    marks = b.js(f"{ANSWERS}.map(a => [...a.querySelectorAll('mark')].map(m => m.textContent))")
    check((said[0] == said[1]) == (marks == [[], []]), f"differing words are marked: {marks}")
    verdict = b.js("document.querySelector('.turn:last-child .verdict').textContent")
    check("the file" in verdict and "decoding speed" in verdict, "and summed up: " + verdict)
    shoot("answers")


def second_question(b, shoot):
    ask(b, "What number is shown?")
    b.wait("document.querySelectorAll('.turn').length === 2")
    b.wait(DONE, 300)
    told = facts(b)
    check(all(f["picture"] == "from cache" for f in told), f"a second question hits the cache: {told[0]}")
    cached = [int(re.match(r"[\d,]+", f["from cache"])[0].replace(",", "")) for f in told]
    prompt = [int(re.match(r"[\d,]+", f["prompt"])[0].replace(",", "")) for f in told]
    check(all(2 * c > p for c, p in zip(cached, prompt)), f"tokens from the cache: {cached} of {prompt}")
    check("42" in texts(b)[0], f"and the answer is right: {texts(b)}")
    marks = b.js("(() => { const a = 'a red  star and a cat', z = 'a blue big star and cat'; const w = (t) => t.split(/\\s+/);"
                 "const [x, y] = common_words(w(a), w(z)); return [marked(a, x), marked(z, y)].map((l) => l.map((m) => "
                 "m.outerHTML || m).join('')); })()")
    check(marks == ["a <mark>red</mark>  star and <mark>a</mark> cat", "a <mark>blue big</mark> star and cat"],
          f"runs of words that differ: {marks}")
    b.click("#set")
    b.wait("document.querySelectorAll('#figures dl').length === 2")
    shown = b.js("document.querySelector('#figures dl').textContent")
    check(re.search(r"pictures from cache[1-9]", shown), "the server's own figures: " + shown)
    shoot("settings")
    b.key("Escape")
    b.wait("!document.getElementById('settings').open")
    shoot("conversation")


def stopping(b, shoot):
    b.click("#set")
    b.wait("document.getElementById('settings').open")
    b.js("document.getElementById('temperature').value = '2'")
    b.click("#done")
    b.wait("!document.getElementById('settings').open")
    ask(b, "Describe the picture.")
    b.wait("document.querySelector('.turn:last-child .said.busy') && "
           "document.querySelector('.turn:last-child .said').textContent.length > 3", 120)
    b.click("#stop")
    b.wait("document.getElementById('stop').hidden")
    said, notes = texts(b), b.js(f"{ANSWERS}.map(a => (a.querySelector('.note') || {{}}).textContent)")
    check(notes == ["Stopped.", "Stopped before the first word."], f"stop keeps what was said: {said}, {notes}")
    shoot("stopped")
    time.sleep(0.3)
    check(texts(b) == said, "and nothing comes after it")
    b.js("settings.temperature = 0; keep_settings()")
    ask(b, "What number is shown?")
    b.wait("document.querySelectorAll('.turn').length === 4")
    b.wait(DONE, 300)
    check(all(texts(b)), f"the conversation goes on: {texts(b)}")


def several_pictures(b, shoot):
    b.click("#anew")
    check(b.js("!document.getElementById('welcome').hidden && document.querySelectorAll('.turn').length === 0"), "a new conversation")
    b.choose("#files", [HERO, OTHER])
    wait_measured(b, 2)
    b.js("""(async () => { const canvas = document.createElement('canvas'); canvas.width = 300; canvas.height = 900;
      const blob = await new Promise((done) => canvas.toBlob(done)); const data = new DataTransfer();
      data.items.add(new File([blob], 'pasted.png', {type: 'image/png'}));
      document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true})); })()""")
    wait_measured(b, 3)
    captions = b.js("[...document.querySelectorAll('#tray figcaption')].map(c => c.textContent)")
    check(all("1 view" in c for c in captions), f"chosen and pasted, three pictures: {captions}")
    shoot("three")
    b.click("#tray li:last-child button")
    wait_measured(b, 2)
    ask(b, "How many shapes are there?")
    b.wait(DONE, 300)
    check(all(texts(b)) and "pictures" in facts(b)[0]["prompt"], f"two pictures in one question: {texts(b)}")


# ---- Keys only --------------------------------------------------------------------------------------

def keys_only(b, url):
    b.open(url)
    b.wait("document.querySelectorAll('button.model').length === 2")
    b.js("document.querySelector('.skip').focus()")
    seen = []
    for _ in range(14):
        b.key("Tab")
        seen.append(b.js("(() => { const e = document.activeElement, s = getComputedStyle(e); return [e.id || e.className || e.tagName,"
                         "e.matches(':focus-visible') && (s.outlineStyle !== 'none' || e.id === 'question')]; })()"))
        if seen[-1][0] == "example":
            break
    check([s[0] for s in seen] == ["model", "model", "anew", "theme", "set", "choose", "example"],
          f"tab order: {[s[0] for s in seen]}")
    check(all(s[1] for s in seen), "each shows that it has the focus")
    b.key("Enter")
    wait_measured(b, 1)
    check(b.js("document.activeElement.id") == "question", "the example leads to the question")
    b.write("What word is written?")
    b.key("Enter", shift=True)
    check("\\n" in json.dumps(b.js("document.getElementById('question').value")), "Shift and Enter begins a line")
    b.key("Enter")
    b.wait(DONE, 300)
    check("boat" in texts(b)[0], f"the example is understood: {texts(b)}")
    check(b.js("document.activeElement.id") == "question", "the focus stays in the question")
    b.js("settings.temperature = 2")
    b.write("Describe the picture.")
    b.key("Enter")
    b.wait("!!document.querySelector('.said.busy')")
    b.key("Escape")
    b.wait("document.getElementById('stop').hidden")
    check(b.js("document.getElementById('status').textContent") == "Stopped", "Escape stops, and it is said")
    check(unnamed(b) == [], f"controls without a name: {unnamed(b)}")


# ---- A phone ----------------------------------------------------------------------------------------

def phone(b, url, shoot):
    b.screen(390, 844, dark=True, mobile=True, scale=2)
    b.open(url)
    b.wait("document.querySelectorAll('button.model').length === 2")
    check(overflow(b) == [], f"nothing sticks out: {overflow(b)}")
    shoot("phone-welcome")
    b.choose("#files", [HERO])
    wait_measured(b, 1)
    ask(b, "Describe the picture.")
    b.wait(DONE, 300)
    b.wait("!document.querySelector('.turn .verdict').hidden")
    check(overflow(b) == [], f"nor with answers: {overflow(b)}")
    small = b.js("[...document.querySelectorAll('footer button, header button')].filter(e => { const r = e.getBoundingClientRect();"
                 "return r.width && (r.height < 36 || r.width < 36); }).map(e => e.id || e.className)")
    check(small == [], f"too small for a finger: {small}")
    shoot("phone-answers")
    b.screen(1280, 860, dark=False)


# ---- What goes wrong --------------------------------------------------------------------------------

def trouble(b):
    return b.wait("(document.querySelector('.turn:last-child .trouble') || {}).textContent", 60)


def too_long(b, program, model, shoot):
    s = Server(program, model, "--ctx", "100").ready()
    b.open(s.url)
    b.wait("document.querySelectorAll('.model').length === 1")
    b.choose("#files", [HERO])
    wait_measured(b, 1)
    check(b.js("document.getElementById('room').classList.contains('over')"), "too long is seen before asking")
    ask(b, "Describe the picture.")
    text = trouble(b)
    check(re.search(r"takes [\d,]+ positions.*room for 100", text), "too long, with both numbers: " + text)
    shoot("too-long")
    b.click(".trouble button")
    wait_measured(b, 1)
    check(b.js("document.getElementById('question').value") == "Describe the picture." and
          b.js("document.querySelectorAll('.turn').length") == 0, "question and picture come back to be changed")
    b.click("#anew")
    b.js("document.getElementById('question').value = ''")
    with tempfile.NamedTemporaryFile(suffix=".png") as f:
        f.write(open(HERO, "rb").read()[:3000])
        f.flush()
        b.choose("#files", [f.name])
        b.wait("!!document.querySelector('#tray .picture.bad')")
        fault = b.js("document.querySelector('#tray .picture.bad figcaption').textContent")
        check(len(fault) > 10, "a broken picture says so under itself: " + fault)
        shoot("broken")
    b.choose("#files", [os.path.join(ROOT, "README.md")])
    check("not a picture" in b.wait("document.getElementById('notice').textContent"), "a file that is no picture is refused")
    b.said.clear()  # the browser logs refused requests itself
    s.stop()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=120).read()
    except (urllib.error.URLError, OSError):
        pass


def busy_and_gone(b, program, model, shoot):
    s = Server(program, model, "--max-running", "1", "--max-waiting", "1").ready()
    b.open(s.url)
    b.wait("document.querySelectorAll('.model').length === 1")
    long = {"prompt": "a", "max_tokens": 900, "ignore_eos": True, "temperature": 1}
    crowd = [threading.Thread(target=post, args=(s.url + "/v1/completions", long), daemon=True) for _ in range(4)]
    for t in crowd:
        t.start()
    time.sleep(0.3)
    ask(b, "What is it?")
    text = trouble(b)
    check("busy" in text and "Try again" in text, "a full queue: " + text)
    shoot("busy")
    for t in crowd:
        t.join()
    b.click(".trouble button")
    b.wait("!!document.querySelector('.turn:last-child .facts')", 120)
    check(texts(b)[0] != "", f"trying again works: {texts(b)}")
    s.stop()
    ask(b, "And now?")
    text = trouble(b)
    check("No connection" in text, "a server that is gone: " + text)
    shoot("gone")
    b.said.clear()


def with_a_key(b, program, model):
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as f:
        f.write("secret-of-the-test\n")
        f.flush()
        s = Server(program, model, "--api-key-file", f.name).ready()
        b.open(s.url)
        b.wait("document.getElementById('settings').open")
        check(b.js("document.activeElement.id") == "key", "a key is asked for")
        b.write("secret-of-the-test")
        b.key("Enter")
        b.wait("document.querySelectorAll('.model').length === 1")
        ask(b, "Hello")
        b.wait("!!document.querySelector('.turn:last-child .facts')", 120)
        check(True, "and then it answers")
        b.said.clear()
        s.stop()


def foreign(b):
    """Addresses asked for that are not a server of this run."""
    return [u for u in b.asked_for if not re.match(r"http://127\.0\.0\.1:\d+/|data:|blob:|about:", u)]


def run(options, models, shots):
    b = Browser(options.chromium)
    dark = [False]

    def shoot(name):
        for d in (False, True):
            b.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if d else "light"}])
            bad = contrast(b)
            check(bad == [], f"contrast of '{name}' in {'dark' if d else 'light'}: {bad}")
            if shots:
                b.shoot(os.path.join(shots, f"{name}-{'dark' if d else 'light'}.png"))

    try:
        b.send("Accessibility.enable")
        s = Server(options.ballast, *models, "--name", "float", "--name", "packed")
        b.screen(1280, 860, dark=False)
        b.open(s.url)  # while it loads
        s.ready()
        first_questions(b, shoot)
        second_question(b, shoot)
        stopping(b, shoot)
        several_pictures(b, shoot)
        keys_only(b, s.url)
        phone(b, s.url, shoot)
        said = [m for m in b.said if "503" not in m]  # the browser logs that the server was still loading
        check(said == [], f"nothing on the console: {said}")
        s.stop()
        too_long(b, options.ballast, models[-1], shoot)
        busy_and_gone(b, options.ballast, models[-1], shoot)
        with_a_key(b, options.ballast, models[-1])
        check(foreign(b) == [], f"nothing asked for outside: {foreign(b)[:3]} of {len(b.asked_for)}")
    except Timeout:
        if shots:
            b.shoot(os.path.join(shots, "timeout.png"))
        print(b.said[-5:], b.js("document.body.innerText.slice(0, 3000)"))
        raise
    finally:
        b.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shots", help="write screenshots into this folder")
    p.add_argument("--ballast", default=os.path.join(ROOT, "build/ballast"))
    p.add_argument("--models", nargs=2)
    p.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"))
    options = p.parse_args()
    if not options.chromium:
        print("skipped: no Chromium here (Debian: apt-get install chromium)")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        models = options.models
        if not models:
            packed = os.path.join(scratch, "packed.safetensors")
            subprocess.run([options.ballast, "quantize", os.path.join(ROOT, "demo/model"), "-o", packed, "--recipe", "rtn",
                            "--bits", "2", "--quiet"], check=True, stdout=subprocess.DEVNULL)
            models = [os.path.join(ROOT, "demo/model"), packed]
        if options.shots:
            os.makedirs(options.shots, exist_ok=True)
        try:
            run(options, models, options.shots)
        except Timeout as e:
            check(False, f"waited in vain for {e}")
    print(f"{len(failures)} failed" if failures else "all good")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
