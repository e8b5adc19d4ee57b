"""darts' networks, channel by channel."""

from collections.abc import Callable

import pytest
import torch
from darts.models.forecasting.dlinear import _DLinearModule
from darts.models.forecasting.nhits import NHiTSModel as DartsNHiTSModel
from darts.models.forecasting.nlinear import _NLinearModule
from darts.utils.data.torch_datasets.utils import PLModuleInput
from torch import Tensor, nn

from models.darts.network import DartsNetwork
from models.networks.dlinear import DLinear, DLinearConfig
from models.networks.n_hits import NHiTS, NHiTSConfig
from models.networks.nlinear import NLinear, NLinearConfig
from models.networks.tide import TiDE, TiDEConfig
from models.shape import WindowShape

L, H, C, Q = 12, 8, 3, 3
SHAPE = WindowShape(L, H, C, past=2, future=3, static=2, outputs=Q)
BUILDERS: dict[str, Callable[[WindowShape], DartsNetwork]] = {
    "dlinear": lambda shape: DLinear(DLinearConfig(const_init=False), shape),
    "nlinear": lambda shape: NLinear(NLinearConfig(const_init=False), shape),
    "tide": lambda shape: TiDE(TiDEConfig(hidden_size=8, decoder_output_dim=2), shape),
    "n_hits": lambda shape: NHiTS(NHiTSConfig(layer_widths=8), shape),
}
Windows = dict[str, Tensor]


def build(name: str) -> nn.Module:
    torch.manual_seed(1)
    return BUILDERS[name](SHAPE).double().eval()


@pytest.fixture
def windows(window: Callable[..., Tensor]) -> Windows:
    return {
        "past_target": window(2, L, C),
        "past_covariates": window(2, L, 2, seed=1),
        "historic_future": window(2, L, 3, seed=2),
        "future": window(2, H, 3, seed=3),
        "static": window(2, C, 2, seed=4),
    }


@torch.no_grad()
@pytest.mark.parametrize("name", BUILDERS)
def test_no_channel_sees_another(name: str, windows: Windows) -> None:
    network = build(name)
    forecast = network(**windows)
    assert forecast.shape == (2, H, C, Q)
    order = [2, 0, 1]
    reordered = windows | {"past_target": windows["past_target"][..., order], "static": windows["static"][:, order]}
    torch.testing.assert_close(network(**reordered), forecast[:, :, order])


@torch.no_grad()
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("covariate", ["past_covariates", "historic_future", "future", "static"])
def test_tide_reads_every_covariate_and_the_others_ignore_them(name: str, covariate: str, windows: Windows) -> None:
    network = build(name)
    changed = windows | {covariate: windows[covariate] + 1}
    assert torch.equal(network(**changed), network(**windows)) == (name != "tide")


@torch.no_grad()
def test_constants_of_a_whole_series_serve_all_channels(windows: Windows) -> None:
    network = build("tide")
    shared = windows["static"][:, :1]
    torch.testing.assert_close(
        network(**windows | {"static": shared}), network(**windows | {"static": shared.expand(-1, C, -1)})
    )


@torch.no_grad()
@pytest.mark.parametrize(("name", "theirs"), [("dlinear", _DLinearModule), ("nlinear", _NLinearModule)])
def test_the_linear_ones_are_dartss_with_shared_weights(name: str, theirs: type[nn.Module], windows: Windows) -> None:
    network = build(name)
    own = {"kernel_size": 25} if name == "dlinear" else {"normalize": True}
    wide = theirs(
        input_dim=C, output_dim=C, future_cov_dim=0, static_cov_dim=0, nr_params=Q, shared_weights=True,
        const_init=False, input_chunk_length=L, output_chunk_length=H, **own,
    ).double().eval()  # fmt: skip
    wide.load_state_dict(network.get_submodule("core").state_dict())
    expected = wide(PLModuleInput(past_target=windows["past_target"])).prediction
    torch.testing.assert_close(network(**windows), expected)


@torch.no_grad()
def test_every_quantile_of_nlinear_follows_the_level(windows: Windows) -> None:
    network = build("nlinear")
    raised = network(**windows | {"past_target": windows["past_target"] + 5})
    torch.testing.assert_close(raised, network(**windows) + 5)


@torch.no_grad()
def test_a_slow_stack_of_n_hits_draws_one_straight_line_per_quantile(windows: Windows) -> None:
    network = build("n_hits")
    for stack in list(network.get_submodule("core.stacks").children())[1:]:
        for parameter in stack.parameters():
            parameter.zero_()
    steps = network(**windows).diff(dim=1)  # [2, H - 1, C, Q], between the two values that half horizons make
    torch.testing.assert_close(steps[:, 2:5], steps[:, 3:4].expand(-1, 3, -1, -1))
    assert (steps[:, 3] != 0).all()


@pytest.mark.parametrize(("lookback", "horizon"), [(336, 96), (26, 8), (7, 3), (1, 1)])
def test_n_hits_takes_the_rates_of_darts(lookback: int, horizon: int) -> None:
    pooling, downsampling = DartsNHiTSModel._prepare_pooling_downsampling(None, None, lookback, horizon, 2, 3)
    network = NHiTS(NHiTSConfig(num_blocks=2, layer_widths=4), WindowShape(lookback, horizon, 1))
    stacks = list(network.get_submodule("core.stacks").children())
    blocks = [list(stack.get_submodule("blocks").children()) for stack in stacks]
    assert tuple(tuple(block.pooling_kernel_size for block in stack) for stack in blocks) == pooling
    assert tuple(tuple(block.n_freq_downsample for block in stack) for stack in blocks) == downsampling
