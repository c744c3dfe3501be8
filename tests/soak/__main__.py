"""Do leases hold beside a load, and through a pause? `python -m tests.soak --minutes 5 --held 2000000 --deadline 10`.

Exit code 1 when a promise did not hold; the folder with all logs is then kept and named.
"""

from __future__ import annotations

import sys

from tests import long_run
from tests.soak.run import Setup, Soak


def main() -> int:
    """Run, print, and write what was asked for."""
    default = Setup()
    parser = long_run.parser(
        "tests.soak", __doc__, minutes=default.minutes, what_minutes="of load, with the pause among them"
    )
    parser.add_argument("--held", type=int, default=default.held, help="messages, half of them sealed")
    parser.add_argument("--deadline", type=int, default=default.deadline_s, help="ack deadline in seconds")
    parser.add_argument("--load-bytes", type=int, default=default.load_bytes, help="of a message of the load")
    parser.add_argument("--pause", type=float, default=default.pause_s, help="seconds; 0: none")
    asked = parser.parse_args()
    setup = Setup(asked.minutes, asked.held, asked.deadline, asked.load_bytes, asked.pause)
    folder = long_run.begin("soak")
    return long_run.conclude(Soak(setup, folder, long_run.say).run(), folder, asked.json)


if __name__ == "__main__":
    sys.exit(main())
