"""Vectors of single layers in the files of other tools, all brought to one convention.

Here layer l is the output of decoder block l, counted from 0: where `steer` adds. What the others
write, by their sources:

- `steering-vectors` (0.12, `steering_vector.py`): adds `layer_activations[l]` to the output of
  block l. It has no format of its own: a `.pt` of `vars(vector)`, read back as
  `SteeringVector(**torch.load(path))`.
- `repeng` (0.4, `extract.py`, `control.py`): a `.gguf` whose tensor `direction.l` was read from
  `hidden_states[l + 1]` and is added to the output of block l.
- `llama.cpp` (`common_control_vector_load_one`, `llama_adapter_cvec::apply`): the same file. Its
  loader and its model both take 1 from l, so `direction.l` is added to the output of block l; a
  file that has `direction.0` is refused.
- `persona-vectors` (`generate_vec.py`, `eval_persona.py`): a `.pt` of one tensor
  [n_layers + 1, d_model]. Row r was read from `hidden_states[r]` and is added to the output of
  block r − 1; row 0, of the embedding, has no place here.
- `rows`: a `.pt` of one tensor [n_layers, d_model] whose row l belongs to layer l.
- `safetensors`: tensors `layer.l`, or one tensor [n_layers, d_model] as in `rows`.
- `npz`: arrays `layer.l`.

What was read from Hugging Face's last `hidden_states` (repeng, persona-vectors), was read after
the final norm, though it is added before it.

In a tensor of rows, a row of zeros is a layer without a vector.
"""
