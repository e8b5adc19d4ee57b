"""The Hugging Face port of PatchTSMixer, the bare network; run by the Python of `huggingface.txt`."""

import json
import sys
from typing import Any

import torch
from transformers import PatchTSMixerConfig, PatchTSMixerForPrediction

from benchmarks.models.lockstep import Pacer


def main() -> None:
    """Forward with loss, backward, fused update, until the last block has ended; the sizes come as JSON."""
    sizes: dict[str, Any] = json.loads(sys.argv[1])
    torch.manual_seed(0)
    config = PatchTSMixerConfig(
        context_length=sizes["lookback"],
        prediction_length=sizes["horizon"],
        num_input_channels=sizes["channels"],
        patch_length=sizes["patch"],
        patch_stride=sizes["patch"],
        d_model=sizes["width"],
        expansion_factor=sizes["expansion"],
        num_layers=sizes["layers"],
        dropout=sizes["dropout"],
        head_dropout=sizes["head_dropout"],
        mode="common_channel",
        gated_attn=True,
        norm_mlp="LayerNorm",
        scaling="std",
        loss="mse",
    )
    network = PatchTSMixerForPrediction(config).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    past = torch.randn(sizes["batch"], sizes["lookback"], sizes["channels"])
    future = torch.randn(sizes["batch"], sizes["horizon"], sizes["channels"])
    pacer = Pacer(sizes["steps"])
    while True:
        optimizer.zero_grad()
        network(past_values=past, future_values=future).loss.backward()
        optimizer.step()
        pacer.step()


if __name__ == "__main__":
    main()
