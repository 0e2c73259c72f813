"""What runs on the device: templates, packed forward passes and readout. No HTTP, no asyncio."""
