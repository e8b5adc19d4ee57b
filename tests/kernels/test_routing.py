import torch

from kernels import recorded_routes
from kernels.prob_sparse import prob_sparse_attention
from kernels.selective_scan import selective_scan


def scan() -> None:
    u = torch.randn(1, 4, 9)
    selective_scan(u, u, -torch.rand(4, 2), torch.randn(1, 2, 9), torch.randn(1, 2, 9))


def test_routes_are_recorded_while_they_are_asked_for_and_no_longer() -> None:
    q = torch.randn(1, 1, 9, 4)
    with recorded_routes() as outer:
        scan()
        with recorded_routes() as inner:
            prob_sparse_attention(q, q, q)
            prob_sparse_attention(q, q, q)
        scan()
    prob_sparse_attention(q, q, q)
    assert list(inner) == ["prob_sparse_attention"]
    assert list(outer) == ["selective_scan", "prob_sparse_attention"]
    assert [len(routes) for routes in outer.values()] == [1, 1]
    assert all(route.path == "torch" and route.reason for routes in outer.values() for route in routes)


def test_a_captured_graph_takes_its_route_when_it_runs() -> None:
    q = torch.randn(1, 1, 9, 4)
    compiled = torch.compile(lambda t: prob_sparse_attention(t, t, t, seed=1) * 2, backend="eager", fullgraph=True)
    compiled(q)
    with recorded_routes() as routes:
        compiled(q)
    assert list(routes) == ["prob_sparse_attention"]
