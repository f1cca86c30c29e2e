"""Ops on token tensors: gather, scatter, the decoder's input."""

from typing import Any

import torch

import videomae_kernels as vk
from benchmarks.baselines import rewrites
from benchmarks.ops.workload import OURS, PUBLISHED, REWRITE, Op, OpCase, Variant, Workload
from videomae_fast.models.positions import sinusoid_table

INDEX_BYTES = 8


def _gather(case: OpCase) -> Workload:
    config, index, hidden = case.inputs.config, case.inputs.plan().visible, case.inputs.hidden
    x = case.normal(index.shape[0], config.num_tokens, config.encoder_dim)
    kept, width, element = index.numel(), x.shape[2], x.element_size()
    double = x.detach().double().requires_grad_(x.requires_grad)
    return Workload(
        {
            PUBLISHED: Variant(lambda: x[~hidden].reshape(index.shape[0], -1, width), [x]),
            REWRITE: Variant(lambda: rewrites.gather_tokens(x, index), [x]),
            OURS: Variant(lambda: vk.gather_tokens(x, index), [x]),
        },
        # index; forward: read and write the kept rows; backward: read the kept rows, write all
        INDEX_BYTES * kept + element * (2 * kept * width if case.direction == "forward" else kept * width + x.numel()),
        Variant(lambda: rewrites.gather_tokens(double, index), [double]),
    )


def _scatter(case: OpCase) -> Workload:
    config, index = case.inputs.config, case.inputs.plan().visible
    tokens, mask_token = case.normal(*index.shape, config.decoder_dim), case.normal(config.decoder_dim)
    number = config.num_tokens
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in (tokens, mask_token)]
    full = index.shape[0] * number * config.decoder_dim
    return Workload(
        {
            REWRITE: Variant(
                lambda: rewrites.masked_token_scatter(tokens, index, number, mask_token), [tokens, mask_token]
            ),
            OURS: Variant(lambda: vk.masked_token_scatter(tokens, index, number, mask_token), [tokens, mask_token]),
        },
        # index, tokens, mask token, and the full grid: the same in both directions
        INDEX_BYTES * index.numel() + tokens.element_size() * (tokens.numel() + mask_token.numel() + full),
        Variant(lambda: rewrites.masked_token_scatter(doubles[0], index, number, doubles[1]), doubles),
    )


def _assemble(case: OpCase) -> Workload:
    config, plan, inputs = case.inputs.config, case.inputs.plan(), case.inputs
    batch, dim = inputs.batch_size, config.decoder_dim
    tokens = case.normal(batch, plan.visible.shape[1], dim)
    mask_token = case.normal(dim, dtype=torch.float32)
    position = sinusoid_table(config.num_tokens, dim).to(case.device)
    host_table, hidden, not_decoded = position.cpu()[None], inputs.hidden, inputs.not_decoded
    # boolean masks select in ascending order; ours lists overlap rows first
    decode = plan.decoded.sort(dim=1).values
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in (tokens, mask_token)]

    def published() -> Any:
        table = host_table.expand(batch, -1, -1).to(case.device).clone()
        visible = table[~hidden].reshape(batch, -1, dim)
        decoded = table[~not_decoded].reshape(batch, -1, dim)
        return torch.cat([tokens + visible, mask_token + decoded], dim=1)

    out = batch * (tokens.shape[1] + decode.shape[1]) * dim * 4  # float32, as the table
    moved = out + tokens.numel() * tokens.element_size() + 4 * dim
    if case.direction == "forward":  # also the table once, and the indices
        moved += position.nbytes + INDEX_BYTES * (plan.visible.numel() + decode.numel())
    return Workload(
        {
            PUBLISHED: Variant(published, [tokens, mask_token]),
            REWRITE: Variant(
                lambda: rewrites.assemble_decoder_tokens(tokens, mask_token, position, plan.visible, decode),
                [tokens, mask_token],
            ),
            OURS: Variant(
                lambda: vk.assemble_decoder_tokens(tokens, mask_token, position, plan.visible, decode),
                [tokens, mask_token],
            ),
        },
        moved,
        Variant(
            lambda: rewrites.assemble_decoder_tokens(doubles[0], doubles[1], position.double(), plan.visible, decode),
            doubles,
        ),
    )


BOTH = ("forward", "backward")
TOKEN_OPS = (
    Op("gather_tokens", _gather, BOTH),
    Op("masked_token_scatter", _scatter, BOTH, variants=(REWRITE, "rewrite + compile", OURS)),
    Op("assemble_decoder_tokens", _assemble, BOTH),
)
