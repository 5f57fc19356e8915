"""Speed of the miniature world on this machine.

    python tests/benchmarks/bench_world.py

Renders a second on one thread (bar: 300), and seconds for 16 pictures on two (bar: about 3).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data" / "makers"))

from evaluate_world import EvaluationConfig, evaluate_speed

if __name__ == "__main__":
    for name, value in evaluate_speed(EvaluationConfig()).items():
        print(f"{name.replace('_', ' ')}: {value}")
