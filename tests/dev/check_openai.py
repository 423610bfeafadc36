#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Drives `ballast serve` with OpenAI's own Python client and checks every answer against OpenAI's published
description of its API. A check for development: without the client it says so and does nothing.

    pip install openai jsonschema
    tests/dev/check_openai.py [--ballast build/ballast] [--model demo/model] [--spec openapi.json]

The description is openapi.json of https://github.com/openai/openai-openapi; without --spec only the client's
own reading is checked. Where the description is stricter than what OpenAI's servers send, RELAXED says so.
"""
import argparse, base64, json, os, pathlib, subprocess, sys, tempfile

try:
    import openai
except ImportError:
    sys.exit(print("check_openai: skipped, the Python package openai is not installed"))
try:
    import jsonschema
except ImportError:
    jsonschema = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
count = {"checks": 0, "validated": 0}


def check(good, what):
    count["checks"] += 1
    if not good:
        sys.exit(f"check_openai: FAILED: {what}")


# ---- OpenAI's description ----------------------------------------------------------------------------------

def nullable(node):
    """"nullable" is OpenAPI 3.0's word; the document says 3.1 and still uses it."""
    if isinstance(node, list):
        return [nullable(x) for x in node]
    if not isinstance(node, dict):
        return node
    node = {k: nullable(v) for k, v in node.items()}
    return {"anyOf": [node, {"type": "null"}]} if node.pop("nullable", None) is True else node


# Legacy completions: OpenAI's servers send null for the log probability of a prompt's first token and for
# finish_reason until the last chunk; the description has no null there.
def relax_completion(schema):
    p = schema["properties"]["choices"]["items"]["properties"]
    p["finish_reason"] = {"anyOf": [p["finish_reason"], {"type": "null"}]}
    lists = p["logprobs"]["anyOf"][0]["properties"]
    for name in ("token_logprobs", "top_logprobs"):
        lists[name]["items"] = {"anyOf": [lists[name]["items"], {"type": "null"}]}


class Spec:
    def __init__(self, path):
        self.doc = nullable(json.load(open(path, encoding="utf-8"))) if path and jsonschema else None
        if self.doc:
            relax_completion(self.doc["components"]["schemas"]["CreateCompletionResponse"])
        else:
            print("check_openai: no --spec or no jsonschema, answers are not validated")

    def validate(self, name, value):
        if not self.doc:
            return
        schema = {"$ref": f"#/components/schemas/{name}", "components": self.doc["components"]}
        errors = list(jsonschema.Draft202012Validator(schema).iter_errors(value))
        if errors:
            sys.exit(f"check_openai: not a {name}: {errors[0].json_path}: {errors[0].message}\n{json.dumps(value)}")
        count["validated"] += 1


# ---- The server --------------------------------------------------------------------------------------------

class Server:
    def __init__(self, program, model, *more):
        self.process = subprocess.Popen([program, "serve", model, "--port", "0", "--ctx", "2048", *more],
                                        stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        check(self.process.stdout.readline() == "ready\n", "the server becomes ready")

    def client(self, key="none"):
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0)

    def stop(self):
        self.process.terminate()
        check(self.process.wait(60) == 0, "SIGTERM ends the server with 0")


def parts(text, *pictures):
    return [{"role": "user", "content": [*({"type": "image_url", "image_url": {"url": p}} for p in pictures),
                                         {"type": "text", "text": text}]}]


def picture(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


class Checks:
    def __init__(self, client, spec, pictures):
        self.client, self.spec, self.pictures = client, spec, pictures
        self.model = client.models.list().data[0].id

    def chat(self, messages, **more):
        raw = self.client.chat.completions.with_raw_response.create(model=self.model, messages=messages, **more)
        self.spec.validate("CreateChatCompletionResponse", json.loads(raw.text))
        return raw.parse()

    def chunks(self, messages, **more):
        """The stream as the client gives it; the bytes of the same request are validated beside it."""
        more["extra_body"] = {"ignore_eos": True}
        with self.client.chat.completions.with_streaming_response.create(
                model=self.model, messages=messages, stream=True, **more) as raw:
            check(raw.headers["content-type"].startswith("text/event-stream"), "a stream's Content-Type")
            lines = [line for line in raw.iter_lines() if line]
        check(all(line.startswith("data: ") for line in lines), "a stream has data lines only")
        check(lines[-1] == "data: [DONE]", "a stream ends with [DONE]")
        for line in lines[:-1]:
            self.spec.validate("CreateChatCompletionStreamResponse", json.loads(line[6:]))
        return list(self.client.chat.completions.create(model=self.model, messages=messages, stream=True, **more))

    def models(self):
        raw = self.client.models.with_raw_response.list()
        self.spec.validate("ListModelsResponse", json.loads(raw.text))
        check(self.client.models.retrieve(self.model).id == self.model, "models.retrieve")

    def text(self):
        r = self.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
                      max_tokens=8, temperature=0)
        check(r.choices[0].message.role == "assistant" and r.choices[0].finish_reason in ("stop", "length"), "text")
        check(r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens, "usage adds up")

    def images(self):
        one = self.chat(parts("What color is the circle?", self.pictures[0]), max_tokens=8, temperature=0)
        again = self.chat(parts("What color is the circle?", self.pictures[0]), max_completion_tokens=8, temperature=0)
        three = self.chat(parts("What do you see?", *self.pictures), max_tokens=8, temperature=0)
        check(one.usage.prompt_tokens_details.image_tokens > 0, "image_tokens of one picture")
        check(again.usage.prompt_tokens_details.cached_tokens > 0, "cached_tokens when it is asked again")
        check(one.choices[0].message.content == again.choices[0].message.content, "the cache changes nothing")
        check(three.usage.prompt_tokens_details.image_tokens > 0, "image_tokens of three pictures")
        bare = [{"role": "user", "content": [{"type": "image_url", "image_url": self.pictures[0]},
                                             {"type": "text", "text": "What color is the circle?"}]}]
        check(self.chat(bare, max_tokens=8, temperature=0).choices[0].message.content ==
              one.choices[0].message.content, "image_url as a bare string")

    def streaming(self):
        whole = self.chat(parts("Describe the picture.", self.pictures[1]), max_tokens=20, temperature=0,
                          extra_body={"ignore_eos": True})
        chunks = self.chunks(parts("Describe the picture.", self.pictures[1]), max_tokens=20, temperature=0,
                             stream_options={"include_usage": True})
        check(chunks[0].choices[0].delta.role == "assistant", "the first delta has the role")
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        check(text == whole.choices[0].message.content, "a stream says what the whole answer says")
        check([c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length", "the last chunk's reason")
        check(chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 20, "usage comes last, alone")
        check(all(c.usage is None for c in chunks[:-1]), "usage is null before")
        with self.client.chat.completions.create(model=self.model, messages=parts("Count."), stream=True,
                                                 max_tokens=500, extra_body={"ignore_eos": True}) as early:
            next(iter(early))  # and go away

    def logprobs(self):
        r = self.chat(parts("Hello"), max_tokens=5, temperature=0, logprobs=True, top_logprobs=3)
        content = r.choices[0].logprobs.content
        check(len(content) >= 1 and all(len(t.top_logprobs) == 3 for t in content), "top_logprobs")
        check(all(t.logprob <= 0 and t.top_logprobs[0].logprob >= t.logprob for t in content), "logprobs are ordered")
        check(b"".join(bytes(t.bytes) for t in content).decode() == r.choices[0].message.content, "bytes make the text")
        self.chunks(parts("Hello"), max_tokens=5, logprobs=True, top_logprobs=2)

    def stop_and_n(self):
        long = self.chat(parts("Count"), max_tokens=24, seed=7, temperature=1.5, extra_body={"ignore_eos": True})
        text = long.choices[0].message.content
        word = text[len(text) // 2:len(text) // 2 + 2]
        cut = self.chat(parts("Count"), max_tokens=24, seed=7, temperature=1.5, stop=[word],
                        extra_body={"ignore_eos": True})
        check(cut.choices[0].message.content == text[:text.index(word)], "stop")
        check(cut.choices[0].finish_reason == "stop", "finish_reason of stop")
        several = [self.chat(parts("Count"), max_tokens=12, n=3, seed=5, temperature=1.5, presence_penalty=0.5,
                             frequency_penalty=0.5, logit_bias={"5": -100}) for _ in range(2)]
        texts = [[c.message.content for c in r.choices] for r in several]
        check(texts[0] == texts[1] and len(set(texts[0])) > 1, "n with a seed: different answers, the same again")

    def formats(self):
        schema = {"type": "object", "additionalProperties": False, "required": ["colour", "count", "tags"],
                  "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer"},
                                 "tags": {"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 6}}}}
        for seed in range(3):
            r = self.chat(parts("Describe", self.pictures[0]), max_tokens=300, temperature=1.2, seed=seed,
                          response_format={"type": "json_schema",
                                           "json_schema": {"name": "x", "strict": True, "schema": schema}})
            value = json.loads(r.choices[0].message.content)
            if jsonschema:
                jsonschema.validate(value, schema)
            check(list(value) == ["colour", "count", "tags"], "json_schema")
        r = self.chat(parts("JSON"), max_tokens=1000, temperature=0.2, seed=1, response_format={"type": "json_object"})
        if r.choices[0].finish_reason == "stop":
            check(isinstance(json.loads(r.choices[0].message.content), dict), "json_object")

    def completions(self):
        raw = self.client.completions.with_raw_response.create(
            model=self.model, prompt="What is", echo=True, logprobs=2, max_tokens=3, temperature=0)
        self.spec.validate("CreateCompletionResponse", json.loads(raw.text))
        choice = raw.parse().choices[0]
        check(choice.text.startswith("What is") and choice.logprobs.token_logprobs[0] is None, "echo with logprobs")
        check("".join(choice.logprobs.tokens) == choice.text, "tokens make the text")
        for c in self.client.completions.create(model=self.model, prompt=["a", "b"], max_tokens=3, stream=True):
            self.spec.validate("CreateCompletionResponse", c.model_dump(exclude_unset=True))

    def errors(self):
        cases = [
            (openai.NotFoundError, "model", dict(model="gpt-4", messages=parts("a"))),
            (openai.BadRequestError, "messages", dict(messages=[])),
            (openai.BadRequestError, "temperature", dict(messages=parts("a"), temperature=9)),
            (openai.BadRequestError, "messages[0].content[0].image_url.url",
             dict(messages=parts("a", "data:image/png;base64,AAAA"))),
            (openai.BadRequestError, "messages[0].content[0].image_url.url",
             dict(messages=parts("a", "http://169.254.169.254/latest/meta-data"))),
            (openai.BadRequestError, "messages", dict(messages=parts("word " * 5000))),
            (openai.BadRequestError, "tools", dict(messages=parts("a"), tools=[
                {"type": "function", "function": {"name": "f", "parameters": {}}}])),
        ]
        for kind, param, request in cases:
            try:
                self.client.chat.completions.create(**{"model": self.model, **request})
                check(False, f"{param}: no error")
            except openai.APIStatusError as e:
                check(isinstance(e, kind) and e.param == param, f"{param}: {e!r}")
                self.spec.validate("ErrorResponse", e.response.json())


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--ballast", default=str(ROOT / "build/ballast"))
    a.add_argument("--model", default=str(ROOT / "demo/model"))
    a.add_argument("--spec", default=os.environ.get("BALLAST_OPENAI_SPEC"))
    args = a.parse_args()
    spec = Spec(args.spec)
    folder = ROOT / "demo/data/pictures"
    pictures = [picture(p) for p in sorted(folder.glob("eval*.png"))[:3]]
    server = Server(args.ballast, args.model)
    checks = Checks(server.client(), spec, pictures)
    for step in (checks.models, checks.text, checks.images, checks.streaming, checks.logprobs, checks.stop_and_n,
                 checks.formats, checks.completions, checks.errors):
        step()
        print(f"ok  {step.__name__}")
    server.stop()
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write("sk-right\n")
        keys.flush()
        server = Server(args.ballast, args.model, "--api-key-file", keys.name)
        check(len(server.client("sk-right").models.list().data) == 1, "the right key")
        try:
            server.client("sk-wrong").models.list()
            check(False, "a wrong key: no error")
        except openai.AuthenticationError as e:
            spec.validate("ErrorResponse", e.response.json())
        server.stop()
    print(f"check_openai: openai {openai.__version__}: {count['checks']} checks, "
          f"{count['validated']} objects validated")


main()
