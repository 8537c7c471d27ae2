"""Models on the Hugging Face Hub, through the library huggingface_hub (extra `hub`).

`ids` needs no library; the other modules are imported for a model that is on the Hub.
"""
