"""A process that speaks the protocol of harness/tune/trial.py without training anything.

The settings of a trial hold its `learning_rate`, which decides its accuracies: 0.5 in the first
epoch, then closer and closer to the rate itself. A rate above 1 diverges, one above 2 fails, one
above 3 ends the process.
"""

import json
import os
import sys

from harness.child import channel_to_parent, write_message


def main() -> None:
    with channel_to_parent() as channel:
        sys.stdin.readline()
        write_message(channel, "ready", num_gpus=0)
        channel.flush()
        for line in sys.stdin:
            rate = json.loads(line)["learning_rate"]
            if rate > 3:
                os.abort()
            if rate > 2:
                write_message(channel, "failed", why="the rate is above 2")
                channel.flush()
                continue
            for epoch in range(6):
                accuracy = rate + (0.5 - rate) * 0.5**epoch
                metrics = {"accuracy": accuracy, "loss": float("nan") if rate > 1 else 1 - accuracy}
                write_message(channel, "epoch", metrics=metrics)
                channel.flush()
                if json.loads(sys.stdin.readline())["stop"] or rate > 1:
                    break
            write_message(channel, "end", diverged=rate > 1)
            channel.flush()


if __name__ == "__main__":
    main()
