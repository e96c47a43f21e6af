"""What drift at every step costs a Trainer, as a ratio of the steps of one without it."""

import pytest
import torch
from compare import compare

pytestmark = pytest.mark.slow

STEPS = 20
N_PROBES = 32
BUDGET = {"0.1M": 2.0, "10M": 1.7}
"""A step trains on 16 × 64 tokens, forward and backward, and reads 32 prompts of up to 44 tokens,
padded: 0.46 of that work, and 1.15 times as often, as θ_S is read thrice at the start."""

SIZES = {
    "0.1M": {"num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 128},
    "10M": {"num_hidden_layers": 8, "hidden_size": 320, "intermediate_size": 864},
}


@pytest.mark.parametrize("size", SIZES)
def test_drift_at_every_step_costs_one_reading(size, tmp_path, capsys):
    from transformers import LlamaConfig, LlamaForCausalLM

    import workbench as wb
    from workbench.organism.tokenizer import build_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = [f"w{number}" for number in range(500)]
    tokenizer = build_tokenizer(words)
    hf = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), num_attention_heads=4, max_position_embeddings=128,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, **SIZES[size],
        )
    )  # fmt: skip
    model = wb.load_model(hf, tokenizer=tokenizer)
    prompts = [
        " ".join(words[pick] for pick in torch.randint(500, (length,)).tolist())
        for length in torch.randint(8, 40, (N_PROBES,)).tolist()
    ]
    probes = wb.ProbeSet.from_prompts(prompts)
    acts = wb.read_activations(model, probes)
    directions = wb.fit_directions_from(acts + torch.randn(acts.shape[0], 1, acts.shape[2]), acts)
    model.close()
    measured = Steps(hf, tokenizer, tmp_path, (directions, probes))
    bare = Steps(hf, tokenizer, tmp_path, None)
    ratio = compare(
        f"drift of {N_PROBES} prompts at every step of a Trainer, {size}",
        measured,
        bare,
        budget=BUDGET[size],
        rounds={"0.1M": 8, "10M": 4}[size],
    )
    with capsys.disabled():
        print(f"\n{ratio}")
    assert ratio.low <= ratio.budget


class Steps:
    """Trains some steps; both kinds begin at, and go on from, the weights that the other left."""

    def __init__(self, hf, tokenizer, folder, measured):
        self.hf, self.tokenizer, self.folder, self.measured = hf, tokenizer, folder, measured
        tokens = torch.randint(6, len(tokenizer), (64, 64))
        self.rows = [{"input_ids": row, "labels": row} for row in tokens]
        self.number = 0

    def __call__(self):
        from transformers import Trainer, TrainingArguments

        import workbench as wb

        self.number += 1
        arguments = TrainingArguments(
            str(self.folder / "trainer"), max_steps=STEPS, per_device_train_batch_size=16,
            learning_rate=1e-6, report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, use_cpu=True, seed=0,
        )  # fmt: skip
        trainer = Trainer(
            self.hf, arguments, train_dataset=self.rows, processing_class=self.tokenizer
        )
        if self.measured:
            out = self.folder / "runs" / str(self.number)
            wb.ReversionCallback(*self.measured, out=out, every=1).attach(trainer)
        trainer.train()
