"""The mixers of PatchTSMixer (arXiv 2306.09364, section 3.2): perceptrons along channels, patches and features."""

from torch import Tensor, nn

from models.layers.feed_forward import FeedForward, GatedAttention

# K channels, N patches, B batch, D width. The batch comes third: every mixer can then multiply along its
# dimension in place. With the batch in front, two of the three would copy their input and output.


class Mixer(nn.Module):
    """A residual perceptron along one dimension of [K, N, B, D], after a LayerNorm over D.

    `axis` 0 mixes channels, 1 patches, 3 features. Patch and feature mixers gate the output of the perceptron; the
    channel mixer gates its input.
    """

    def __init__(self, axis: int, size: int, width: int, expansion: int, dropout: float, gated: bool) -> None:
        super().__init__()
        self.axis = axis
        self.norm = nn.LayerNorm(width)
        dim = -1 if axis == 3 else -2  # features are last already
        mlp = FeedForward(size, expansion * size, dropout, dim)
        gate = GatedAttention(size, dim) if gated else nn.Identity()
        self.mix = nn.Sequential(gate, mlp) if axis == 0 else nn.Sequential(mlp, gate)

    def forward(self, patches: Tensor) -> Tensor:
        """Embedded patches [K, N, B, D] in and out."""
        features = self.norm(patches)  # [K, N, B, D]
        if self.axis == 0:
            features = features.flatten(1).unsqueeze(0)  # [1, K, N * B * D]
        elif self.axis == 1:
            features = features.flatten(2)  # [K, N, B * D]
        mixed: Tensor = self.mix(features).view_as(patches)
        return patches + mixed


class MixerLayer(nn.Module):
    """Channel mixer in hybrid mode (`channels` is not None), then patch mixer, then feature mixer."""

    def __init__(
        self, channels: int | None, patches: int, width: int, expansion: int, dropout: float, gated: bool
    ) -> None:
        super().__init__()
        inside = (width, expansion, dropout, gated)
        self.channels = Mixer(0, channels, *inside) if channels is not None else nn.Identity()
        self.patches = Mixer(1, patches, *inside)
        self.features = Mixer(3, width, *inside)

    def forward(self, patches: Tensor, keep: int | None = None) -> Tensor:
        """Embedded patches [K, N, B, D] in and out; `keep` drops all but the first channels, [keep, N, B, D].

        After the channel mixer no channel reads another, so the last layer can skip channels that the head does not
        read.
        """
        mixed: Tensor = self.features(self.patches(self.channels(patches)[:keep]))
        return mixed
