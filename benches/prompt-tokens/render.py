"""What Jinja2 makes of templates with the settings of transformers: JSON on stdin, JSON on stdout."""

import datetime
import json
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
environment.filters["tojson"] = to_json
environment.globals["raise_exception"] = refuse
environment.globals["strftime_now"] = lambda form: datetime.datetime.now(datetime.timezone.utc).strftime(form)

asked = json.load(sys.stdin)
template = environment.from_string(asked["template"])
answers = []
for variables in asked["renderings"]:
    try:
        answers.append({"text": template.render(**variables)})
    except Exception as error:
        answers.append({"error": str(error)})
json.dump(answers, sys.stdout)
