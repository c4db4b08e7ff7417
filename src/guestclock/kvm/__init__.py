"""KVM: what a VMM may ask (api), an exact model of it, and the real ioctls (device)."""
