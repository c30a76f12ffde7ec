"""The native library: its C ABI, handles, devices. The only package that calls through ctypes."""
