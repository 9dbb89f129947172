"""Export, compression, web payloads and Azure AI Foundry."""
