"""Scripts that run in environments of their own are no tests here: what they import is not installed."""

collect_ignore = ["openrlhf_client.py", "verl_client.py", "verl_naive.py"]
