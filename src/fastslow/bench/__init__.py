"""What `fastslow bench` measures: engines beside the loop, beside `torch.nn.LSTM` and beside the floor."""

from fastslow.bench.run import run_bench

__all__ = ["run_bench"]
