"""What Jinja2 makes of templates with the settings of transformers.

    jinja2_goldens.py FIXTURES              computes the results in FIXTURES/jinja2.json anew
    jinja2_goldens.py FIXTURES TEMPLATES    and the hashes of the renderings of the folder's *.jinja files

To add an expression, add `{"source": …}` to the cases of jinja2.json first. A `differs` of a case stays: it says why this
project's result is another one.
"""

import datetime
import hashlib
import json
import pathlib
import sys

from jinja2 import TemplateError, ext, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 1, 7, 9, 5, 3)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "temperature",
            "description": 'The temperature of a "city" & more.\nIn <degrees>.',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Such as Tromsø"},
                    "unit": {"type": "string", "enum": ["celsius", "kelvin"], "default": "celsius"},
                    "days": {"type": "integer", "minimum": 1},
                    "exact": {"type": "number"},
                    "raw": {"type": ["boolean", "null"]},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "clock", "description": "Now", "parameters": {"type": "object", "properties": {}}},
    },
]


class Generation(ext.Extension):
    """Marks text that a model is trained on."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def raise_exception(message):
    raise TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(source, variables):
    try:
        return {"text": environment().from_string(source).render(**variables)}
    except Exception as error:  # Whatever it is, this is what Jinja2 says.
        return {"error": f"{type(error).__name__}: {error}"}


def expressions(path):
    golden = json.loads(path.read_text())
    for case in golden["cases"]:
        # A copy: some cases try to change it.
        result = render(case["source"], json.loads(json.dumps(golden["variables"])))
        differs = {"differs": case["differs"]} if "differs" in case else {}
        case_source = case["source"]
        case.clear()
        case.update({"source": case_source, **result, **differs})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in golden["cases"])
    variables = json.dumps(golden["variables"], ensure_ascii=False)
    path.write_text(f'{{"variables": {variables},\n"cases": [\n{lines}\n]}}\n')


def sha256(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hashes(fixtures, folder):
    conversations = json.loads((fixtures / "conversations.json").read_text())
    golden = {}
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_bytes().decode()
        of_template = golden[sha256(source)] = {}
        for title, conversation in conversations.items():
            tools = {"both": TOOLS, "one": TOOLS[:1]}.get(conversation.get("tools"))
            result = render(
                source,
                {
                    "messages": conversation["messages"],
                    "tools": tools,
                    "documents": None,
                    "add_generation_prompt": conversation.get("addGenerationPrompt", True),
                    "bos_token": "<s>",
                    "eos_token": "</s>",
                    **conversation.get("variables", {}),
                },
            )
            if "text" in result:
                of_template[title] = sha256(result["text"])
            elif result["error"].startswith("TemplateError"):
                of_template[title] = "refused"
            elif "'NoneType'" not in result["error"] and not result["error"].startswith("RecursionError"):
                of_template[title] = "error"
    golden = {"tools": TOOLS, "templates": golden}
    (fixtures / "template_hashes.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    fixtures = pathlib.Path(sys.argv[1])
    expressions(fixtures / "jinja2.json")
    if len(sys.argv) > 2:
        hashes(fixtures, pathlib.Path(sys.argv[2]))
