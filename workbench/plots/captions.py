"""What a report says beside its figures: plain text, with θ_S, θ_H and v_rev as they are."""

HEADINGS = {
    "alignment": "Does the drift point back?",
    "layers": "At which layers?",
    "ordering": "Does behaviour follow?",
    "behaviour": "Does behaviour follow?",
    "geometry": "Where does it go?",
    "significance": "Could it be chance?",
    "readout": "What does the direction say?",
    "dose": "How much is enough?",
    "tradeoff": "What does it buy, and at what price?",
    "sweep": "Where must one intervene?",
    "controls": "Is it this direction?",
    "aftermath": "What comes back after blocking?",
}
"""Of a part of the report, by the figure that may begin it."""

ROWS = {"along": "far", "across": "far", "ordering": "points", "cost": "points"}
"""Figures of one row stand side by side; the others have a row each."""

CLICK = " A click on a name in the legend hides it."
CHOOSE = "; arm, run and cell are chosen above each map, a cell also by a click"
DRILL = " Beside it the chosen layer over the steps, below what its v_rev says in tokens."
HOVER_RUNS = ", whose 95 % intervals over prompts show on hovering"
HOVER_SHARE = "; hovering tells the share"
ON_SCREEN = (CLICK, CHOOSE, DRILL, HOVER_RUNS, HOVER_SHARE)
"""Parts of captions that are true on a screen only."""

STACKED = {"Left: ": "Top: ", "Right: ": "Bottom: ", "on the right": "at the bottom"}
"""What becomes of a caption whose panels stand one above the other."""

CAPTIONS = {
    "alignment": "Alignment, the cosine of drift and v_rev, mean over layers, against the step. "
    f"{{lines}} {{nulls}}{CLICK}",
    "layers": f"Alignment at every layer and measured step of one run{CHOOSE}. The colours run "
    "from −1 (blue) over 0 (white) to 1 (red) in every map; a dark line separates positive from "
    "negative. Grey with a cross: undefined, the drift is below ten noise floors.{marks}"
    f"{DRILL} Where the dots never end, the claim does not hold at that layer.",
    "sibling": "Left: v_rev and drift both contain −θ_S, which alone makes a cosine of about 0.5 "
    "between independent models. Right: the same drift against the direction to θ_H from a "
    "sibling θ_S′, aligned from the same θ_H with another seed. θ_S itself is in only one of the "
    "two, so what remains on the right is not made by sharing it. {lines}",
    "along": "The drift's part along v_rev, in phase gaps: how far it goes, where the cosine says "
    "only in which direction; 1 is the whole way back to θ_H. Mean over layers. {lines}",
    "across": "The norm of the drift's part orthogonal to v_rev, in phase gaps (1 is the distance "
    "of θ_H from θ_S). Mean over layers. {lines}",
    "ordering": "Small marks: single runs at the last step; large marks: arm means; grey lines "
    "join block, ordinary and push of one seed. {runs} {rank}",
    "cost": "Task cost is the share of ordinary fine-tuning's gain in task loss that an arm "
    "loses, per seed. Small marks: single runs at the last step; large marks: arm means. {runs}",
    "behaviour": "Left: share of held-out harmful prompts complied with; step 0 is θ_S itself. "
    "Right: cross-entropy of held-out task responses. {bars}",
}
"""By figure; in braces what depends on the data."""

EVIDENCE = {
    "significance": "Share of the ordinary arm's runs, in percent, in which the alignment of a "
    "layer at a step is beyond the null after Holm; {spread}. {family} Steps of one run are "
    "dependent, which Holm allows for. Where a map is white, that null explains the alignment; "
    "white maps of the matched null at every layer would refute the claim. The sign flip alone "
    "proves little: it is rejected by a third of unrelated drifts. None of them sees the shared "
    "endpoint.",
    "dose": "Each quantity at the last step against the strength of an intervention; bands: "
    "{spread}. Strength 0, ordinary fine-tuning, stands apart on the left, its mean is the dashed "
    "line. The claim would be refuted if harmfulness stayed on that line while alignment fell, or "
    "fell only where the task cost rises with it.",
    "tradeoff": "One mark per arm but push: its mean at the last step; bars: {spread}. Controls of "
    "one kind share a name. Lower and further left is better; the dashed staircase is the Pareto "
    "front, of which no arm is better in both, and its arms are named. The claim that v_rev "
    "matters would be refuted by an anchor, rehearsal or control at the same task cost that is no "
    "more harmful than block.",
    "sweep": "One row per set of layers; marks: means at the last step, bars: {spread}; dashed: "
    "ordinary fine-tuning. Were the layers of no importance all rows would lie together; were they "
    "all needed, every row but that of all layers would lie on the dashed line.",
}
"""Of the figures of the causal evidence."""

ABLATION = (
    "Each score against the strength of an ablation along v_rev at {where}, in θ_S and in the "
    "fine-tuned model: at 0 nothing is edited, at 1 the coordinate is put at its centre{centre}, "
    "at 2 it is mirrored, at −1 what it has beyond the centre is doubled. Bands: 95 % intervals "
    "over prompt clusters; {counts}. {last}{price}That reversion acts through v_rev would be "
    "refuted by a fine-tuned model whose harmfulness stays, from 0 to 1, within the band that it "
    "has at 0, or falls only where task loss, KL or over-refusal rise: then the edit breaks more "
    "than it undoes."
)
"""Of the figure of an ablation grid."""

SLIDER = (
    "Behaviour against the strength of an ablation at inference; layers and strength are chosen "
    "above the curves, the text below them is about the layers chosen."
)
"""Of the ablation slider in a report."""

ONLY_ANSWERS = (
    "Scores of given responses (refusal log-odds, task loss, KL) are undefined but at 0: an edit "
    "of the last position follows answers only. "
)
"""Of a grid of the last position."""

VIEWS = {
    "geometry": "The plane of v_rev (along; θ_S at 0, θ_H at 1) and of the first principal "
    "component of what drifts across v_rev, not centred, over all measured steps of the runs "
    "shown; lengths in phase gaps{stacked}. Diamonds: phases, read on the fit probes, arrows in "
    "training order; lines: single runs, read on the measure probes, a mark per measured step; no "
    "bands, {runs}. Open marks: less than half of the squared displacement lies in this plane, so "
    f"the picture hides most of the way{HOVER_SHARE}. A far end of an arrow says "
    "nothing about distance in the dimensions left out. The claim would be refuted by runs of "
    "ordinary fine-tuning that end at the left of 0, or that go off at a right angle to v_rev: "
    "the main across direction is fitted to the runs, v_rev is not.",
    "comparison": "One quantity against the step{stacked}. Lines or large marks: means of the "
    "arms; thin lines or small marks: single runs; bands or bars: ± one sample sd over runs, {runs}"
    ". That an arm matters would be refuted by runs of its own that lie among those of ordinary "
    "fine-tuning.",
}
"""Of the views beside a report; `runs` says n, `stacked` which layers."""

TOLD = {
    "significance": "What each null supposes, and in how many tests that is rejected after Holm. "
    "Below, the cosine of the same drift with the directions between other pairs of phases: a "
    "comparison, as so few directions give no p-value.",
    "readout": "Change of a token's logit when the residual stream of θ_S moves by one phase gap "
    "along v_rev, and the preference: the change, in nats per phase gap, of the log-odds of "
    "engaging over refusing openers, with its one-sided p under an isotropic null. Refuted, at a "
    "layer, by a preference that is not above 0 or a large p.",
    "controls": "A control that shares much with v_rev is no control: its cosine should be small, "
    "and its gradient as large as block's. The claim would be refuted by a control of small cosine "
    "that lowers harmfulness as much as block does.",
    "aftermath": "The direction is fitted again with the fine-tuned model T in place of θ_S: "
    "cosine of the re-fitted with the old v_rev; the gap that is left, ‖H−T‖ over ‖H−S‖, 1 where "
    "nothing came back; the displacement along v_rev and off it, in phase gaps; the share of "
    "ordinary fine-tuning's off-direction displacement that this arm has too; and the share of its "
    "behavioural shift that is there all the same. That blocking one direction blocks the "
    "reversion would be refuted by shares near 100 %: the shift then returns off the direction.",
}
"""Above the tables of the causal evidence."""

NULLS = (
    "Grey area and dashed grey lines: ±p99 of the nulls, between which 98 % of a null's draws lie; "
    "the area is the widest one's. The isotropic null takes a uniformly random "
    "drift and is a low bar; the matched one takes a random drift with the covariance of the "
    "activations. Neither sees the shared endpoint."
)
NOT_DRAWN = " Not drawn, for want of room: {n}."
MARKS = " Dots: not above the p99 of the matched null at that layer."

ARMS = {
    "ordinary": "fine-tunes and does nothing else",
    "block": "penalises motion along v_rev, towards θ_H",
    "push": "rewards that motion up to a target",
    "random": "is block along a uniformly random direction",
    "matched": "is block along a random direction with the covariance of the activations, its "
    "gradient scaled to the norm that block's had",
    "matched-unscaled": "is matched without the scaling",
    "matched-two-sided": "is matched without its part along v_rev, penalised on both sides",
    "block-rank2": "also blocks where the blocked model went off v_rev",
    "block-rank3": "blocks a third direction, re-fitted after block-rank2",
    "refusal": "is block along the direction from harmful to harmless prompts at θ_S",
    "drift": "is block along the top principal component of ordinary drift",
    "shuffled": "is block along another layer's v_rev",
    "orthogonal": "is block along a control with its part along v_rev taken out",
    "ablate": "holds the coordinate along v_rev at θ_S's mean in the training forward",
    "steer": "adds v_rev to the residual stream in the training forward",
    "cap": "caps the coordinate along v_rev in the training forward",
    "project": "takes the part of every update out that moves along v_rev",
    "anchor-kl": "penalises KL from θ_S and knows no direction",
    "anchor-penalty": "penalises KL from θ_S on the very prompts that block trains on",
    "anchor-weights": "penalises the distance of the weights from θ_S's",
    "rehearse": "mixes θ_S's own answers to block's prompts into the batches",
}
"""What families of arms do; the verb belongs to the arm."""

VARIANTS = (
    "A number after a colon is the strength, numbers after an @ are the layers; -scaled: with its "
    "gradient scaled to the norm that block's had."
)

BESIDE = (
    "Beside the paper, not against it.",
    "The paper's models are larger (3B to 14B) and its setup is another. Its numbers stand beside "
    "ours; they are not ours, and ours do not replace them.",
)
DEPENDENT = (
    "Steps are dependent.",
    "Run-step pairs of one run share their past: they are counted, not tested as if they were "
    "independent. The unit of replication is the run, better the lineage.",
)
SEPARATED = (
    "Shared endpoint separated.",
    "v_rev and drift both contain −θ_S, which alone raises their cosine. The cosine with a "
    "sibling's direction, which does not contain θ_S, stands beside it.",
)
NOT_SEPARATED = (
    "Shared endpoint not separated.",
    "v_rev and drift both contain −θ_S, which alone makes a cosine of about 0.5 between "
    "independent models. No sibling model was given, so that part is not taken out.",
)

NOT_IN_ONE_RUN = (
    "Shared endpoint not separated.",
    "v_rev and drift both contain −θ_S, which alone makes a cosine of about 0.5 between "
    "independent models. An experiment on a lineage with a sibling shows what is left without it; "
    "a single run does not.",
)

OF_RUNS = (
    "Drift, the displacement of the residual stream during fine-tuning from the aligned model θ_S "
    "it started from, and v_rev, the direction from θ_S back to the earlier model θ_H."
)

COURSE = (
    "Top: cosine of every phase's mean displacement from the aligned phase θ_S with v_rev, the "
    "direction from θ_S to the witness θ_H, at every layer; grey: undefined, θ_S itself or below "
    "ten noise floors. Middle: the same cosine ({curves}), and the turning, the cosine between the "
    "displacements into a phase and out of it, 1 where training goes straight on. Bottom: the "
    "coordinate along v_rev, 0 at θ_S and 1 at θ_H, and the norm across it. The phases are read on "
    "the prompts that v_rev was fitted on. Phases between θ_H and θ_S share later updates with "
    "v_rev: a random walk between the two would have such coordinates, too, but a turning near 0; "
    "it is near −0.5 where phases only scatter. {sibling}"
)
COURSE_SHARED = (
    "θ_S is in both directions of the cosine, which alone makes about 0.5 between independent "
    "models; without a sibling the shared endpoint is not separated."
)
COURSE_SIBLING = (
    "θ_S is in both directions of the cosine, which alone makes about 0.5 between independent "
    "models; beside it is the cosine with the direction to θ_H from a sibling θ_S′, which θ_S is "
    "not in."
)
