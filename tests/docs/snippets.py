#!/usr/bin/env python3
"""Runs what the documentation shows.

    snippets.py run FILE.md …        runs every ```bash and ```python block, each file's blocks in order in one empty folder
    snippets.py links FILE.md …      checks that relative links lead to files
    snippets.py cpp OUT.cpp FILE.md  writes the ```cpp blocks as one source: a whole program as it is, statements as functions

bash blocks see the repository's programs on PATH and the repository through links of its top-level folders; a block that
exits non-zero fails the test with its output. JSON blocks must parse. Blocks of other languages are not run here: text;
sh, commands that need a GPU; py, which a test of its own runs; cpp, which the build compiles. A file without a block to
run, to parse or to compile is an error.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def run_file(path, repository, binaries, python):
    blocks = [block for block in FENCE.findall(path.read_text(encoding="utf-8")) if block[0] in ("bash", "python", "json")]
    if not blocks:
        print(f"{path}: no block of bash, python or json, expected at least one")
        return 1
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("configs", "models", "tests", "examples", "docs"):
            os.symlink(repository / name, pathlib.Path(folder) / name)
        environment = dict(os.environ, PATH=f"{binaries}:{os.environ['PATH']}", MODELOPT_KERNELS=os.environ["MODELOPT_KERNELS"])
        for language, code in blocks:
            if language == "json":
                json.loads(code)
                continue
            # the two commands of the set-up are what runs this test: not again from inside
            code = re.sub(r"^(make (demo|test|model|build)\b.*|git clone .*|cd modelopt\b.*)$", "", code, flags=re.M)
            command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [python, "-c", code]
            result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if result.returncode != 0:
                failures += 1
                print(f"{path}: this {language} block failed ({result.returncode}):\n{code}\n{result.stdout}\n{result.stderr}")
    return failures


def check_links(path):
    failures = 0
    for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if not (path.parent / target).exists():
            failures += 1
            print(f"{path}: link to {target}, which does not exist")
    return failures


CPP_PROLOGUE = """#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/randint.h>
#include <modelopt/checkpoint/load_model.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/sparsify/sparsify.h>
"""


def write_cpp(out, path):
    blocks = [code for language, code in FENCE.findall(path.read_text(encoding="utf-8")) if language == "cpp"]
    if not blocks:
        print(f"{path}: no block of cpp, expected at least one")
        return 1
    programs = [code for code in blocks if "int main(" in code]
    functions = [f"void snippet_{i}() {{\n{code}}}\n" for i, code in enumerate(blocks) if code not in programs]
    out.write_text("\n".join([*programs, CPP_PROLOGUE if functions else "", *functions]), encoding="utf-8")
    return 0


def main():
    if sys.argv[1] == "cpp":
        sys.exit(write_cpp(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])))
    mode, files = sys.argv[1], [pathlib.Path(f).resolve() for f in sys.argv[2:]]
    repository = pathlib.Path(__file__).resolve().parents[2]
    failures = 0
    for path in files:
        if mode == "run":
            failures += run_file(path, repository, os.environ["MODELOPT_BIN"], os.environ["MODELOPT_PYTHON"])
        else:
            failures += check_links(path)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
