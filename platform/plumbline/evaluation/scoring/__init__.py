"""What scorers are made of: counting in texts, telling languages apart, and the checkers of verifiable instructions."""
