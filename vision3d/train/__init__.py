"""The one training loop and the tasks that it trains; see README.md."""
