"""The native engine: C++ that is compiled on the device for one model and its processor."""
