"""What the tests of Trainers share: the planted examples as a dataset, and small Trainers."""

import torch
from transformers import Trainer, TrainingArguments

from workbench.encoding import encode_examples


def dataset_of(model, examples):
    """The examples as a Trainer is given them: labels on the response alone."""
    return [
        {
            "input_ids": list(item.ids),
            "labels": [-100] * item.prompt_length + list(item.ids[item.prompt_length :]),
        }
        for item in encode_examples(model, examples, "Example")
    ]


def collate(rows):
    """Right-padded tensors of some rows."""
    filled = {"input_ids": 0, "labels": -100}
    batch = {
        name: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=value
        )
        for name, value in filled.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    return batch | {"attention_mask": mask.long()}


def make_trainer(model, examples, folder, *, kind=Trainer, given=None, callbacks=(), **options):
    """A Trainer of 6 steps of 4 examples on the CPU, at a rate that visibly moves weights."""
    small = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 2,
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        "seed": 0,
    }
    return kind(
        model.hf,
        TrainingArguments(str(folder), **small | options),
        data_collator=collate,
        train_dataset=dataset_of(model, examples),
        processing_class=model.tokenizer,
        callbacks=list(callbacks),
        **given or {},
    )
