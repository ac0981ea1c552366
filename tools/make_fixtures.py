#!/usr/bin/env python3
"""Makes the files that `vitscope verify` checks the engine against, from transformers' CLIPModel in float64.

python tools/make_fixtures.py --out tests/fixtures            the committed ones, all of them
python tools/make_fixtures.py --model DIR --image a.png --text "a cat" --out mine.safetensors
python tools/make_fixtures.py --self-test                     finite differences and identities of the oracle itself
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from oracle import committed, user  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="tests/fixtures for the committed set; a .safetensors file with --model")
    parser.add_argument("--update", action="store_true", help="replace files whose content moved")
    parser.add_argument("--self-test", action="store_true", help="check the oracle against finite differences")
    user.add_arguments(parser)
    args = parser.parse_args()

    if args.self_test:
        from oracle import self_test

        return self_test.run()
    if not args.out:
        parser.error("--out is missing")
    if args.model:
        try:
            return user.make_one(args, "python " + shlex.join(sys.argv))
        except (ValueError, OSError) as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 2
    # One thread: the order of additions, and so the last bits, must not depend on the machine's load.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    return committed.make_all(args.out, args.update)


if __name__ == "__main__":
    sys.exit(main())
