"""Training commands of other tools, both ways: a pasted one as a plan for this page, and a run as their command."""
