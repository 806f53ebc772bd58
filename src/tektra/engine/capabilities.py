"""What a loaded model can do and within which bounds, for programs that adapt to it.

Plain data; it does not know how a model is loaded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tektra.engine.loader import LoadedModel
from tektra.engine.sampling_params import SamplingParams

__all__ = ["Capabilities", "Modality", "capabilities_of"]

Modality = Literal["text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """A loaded model, described.

    Attributes:
        name: of the model, as its reference gives it.
        architecture: family that it belongs to.
        context: most tokens of one sequence, as loaded.
        model_context: most tokens that the model was made for.
        vocab_size: tokens in the vocabulary.
        embedding_width: elements of a vector of `LLM.embed`.
        num_layers: transformer layers.
        num_parameters: weights in the file.
        file_bytes: size of the file or files.
        modalities: what can be in a prompt.
        chat_template: whether the model brings a template for `LLM.chat`.
        generation: whether the model generates; encoders do not.
        embeddings: whether `LLM.embed` works.
        reranking: whether `LLM.rerank` works.
        prompts: names of the prompts that `LLM.embed` knows.
        device: what computes.
        threads: threads that compute.
        max_batch: sequences that run at once.
        sampling: names of the sampling parameters.
    """

    name: str
    architecture: str
    context: int
    model_context: int
    vocab_size: int
    embedding_width: int
    num_layers: int
    num_parameters: int
    file_bytes: int
    modalities: tuple[Modality, ...]
    chat_template: bool
    generation: bool
    embeddings: bool
    reranking: bool
    prompts: tuple[str, ...]
    device: str
    threads: int
    max_batch: int
    sampling: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def capabilities_of(model: LoadedModel, max_batch: int) -> Capabilities:
    """Describes a model that was loaded."""
    config = model.drawn.config
    return Capabilities(
        name=model.resolved.name,
        architecture=config.architecture,
        context=model.context,
        model_context=model.model_context,
        vocab_size=model.tokenizer.vocab_size,
        embedding_width=config.embedding_width,
        num_layers=config.num_layers,
        num_parameters=model.num_parameters,
        file_bytes=model.file_bytes,
        modalities=("text",),
        chat_template=bool(model.chat_templates),
        generation="logits" in model.drawn.graph.outputs,
        embeddings="hidden" in model.drawn.graph.outputs,
        reranking="scores" in model.drawn.graph.outputs,
        prompts=tuple(model.vectors.prompts),
        device=model.backend,
        threads=model.executable.options.num_threads,
        max_batch=max_batch,
        sampling=SamplingParams.parameter_names(),
    )
