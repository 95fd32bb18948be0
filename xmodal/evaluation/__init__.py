"""What was made, judged against what is real: judges, metrics, tables and the report."""

# Names of our suites, here so that `--help` can say them without importing torch.
PICTURES, SOUNDS, SPOKEN, BENCHMARK = NAMES = ("audio2image", "vision2audio", "text2audio", "av-benchmark")
