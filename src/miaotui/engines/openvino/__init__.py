"""OpenVINO GenAI as an engine: processors, and Intel's graphics and neural processors."""
