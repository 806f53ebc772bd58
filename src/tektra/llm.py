"""`LLM`: a model in this process, for programs. Generate, chat, stream, embed, score.

The calls and what they promise; `engine/asked_model.py` turns what is passed into requests and
results back, and `engine/local_model.py` has loading, tokens and whole texts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping, Sequence
from typing import Any, Literal, overload

from tektra.engine.adapters import AdapterChoice, adapter_uses
from tektra.engine.asked_model import AskedModel, Requests
from tektra.engine.llm_options import LLMOptions
from tektra.engine.outputs import Chunk, Completion
from tektra.engine.prompts import Message, Prompt, PromptList
from tektra.engine.sampling_params import SamplingParams

__all__ = ["LLM", "LLMOptions"]


class LLM(AskedModel):
    """A model, loaded into this process.

    Any number of threads and tasks may use one at the same time; what they ask for is batched.
    ``with LLM(...) as llm`` or `close` frees everything. After a fork it serves the parent only:
    load models in the child, or start children by spawn.

    Args:
        reference: a path to a GGUF file or to a folder with one, or an alias (``"smollm2:135m"``).
        device: ``"auto"``, ``"cpu"``, ``"reference"``..., or a `Backend`; ``"auto"`` takes what
            ``TEKTRA_DEVICE`` says, else the fastest there is.
        threads: None: ``TEKTRA_THREADS``, else the physical cores that this process may use.
        context: most tokens of one sequence, prompt and answer together; None: ``TEKTRA_CONTEXT``,
            else what the model was made for, 4096 at most, and less where memory is short.
            `capabilities` says what was chosen.
        context_policy: what happens to texts that grow beyond it. ``"stop"``: answers end there,
            and longer prompts are refused. ``"slide"``: the first 64 tokens and the newest stay,
            what is between them gives way, and answers go on, as long as ``max_tokens`` says (else
            for as many tokens as the context has); `Completion.dropped_tokens` tells how much did.
            ``"slide:N"``: N first tokens stay. None: ``TEKTRA_CONTEXT_POLICY``, else ``"stop"``.
        max_batch: requests that run at once; further ones wait.
        max_rows: most tokens of prompts in one step. More is faster, and takes memory.
        kv_type: of keys and values: ``"f16"``, ``"int8"``, half of that and a little rounded, or
            ``"f32"``; None: ``TEKTRA_KV_TYPE``, else ``"f16"``.
        quant: what float weights are quantized to while they are loaded, a mix such as ``"q8_0"``
            or ``"q4_k"`` (docs/quantize.md); None: ``TEKTRA_QUANT``, else they stay as they are.
        max_waiting: most requests that may wait; None for no bound.
        prefix_cache: reuse what was computed for an equal beginning of an earlier prompt.
        packed_cache: use and leave packed copies of weights, for quick starts (docs/embedding.md).
        seed: where the seeds of requests that name none come from, in order of arrival.
        adapters: LoRA adapters to load with the model, by the names that requests call them by;
            `load_adapter` says what they can be.
        progress: told how far loading is, on the threads that load.
        cancel: ends loading when it is set.
        wait: if False, load on a thread of its own: `status` is ``"loading"``, and calls wait.

    Raises:
        InvalidParameterError: an option is out of range.
        ModelReferenceError, ModelNotFoundError: the reference leads to no model.
        FormatError, UnsupportedModelError, TokenizerError: the file cannot be used.
        IntegrityError: it is not the file that it must be.
        DeviceUnavailableError, MemoryLimitError, BackendError: it cannot run here.
        CancelledError: ``cancel`` was set.
    """

    # Generation

    @overload
    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: PromptList,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> list[Completion]: ...

    @overload
    def generate(
        self,
        prompt: Prompt | PromptList,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Generator[Chunk, None, None]: ...

    def generate(
        self,
        prompt: Prompt | PromptList,
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Completion | list[Completion] | Generator[Chunk, None, None]:
        """Continues a prompt as it is, or several prompts in one batch.

        A text gets the beginning-of-sequence token that the model wants; the text of a special
        token in it is read as that token. Token ids are taken as they are.

        Args:
            prompt: a text, token ids, or a list of those.
            params: how to choose tokens and when to stop; None: `default_sampling`.
            stream: return an iterator of chunks. It hands in the request when it is first read;
                closing it cancels the request. Chunks of several prompts come as they come,
                ``index`` says whose they are.
            adapter: name of the adapter that the model has for this, several names, or names with
                their scales (``{"style": 0.5}``); see `load_adapter`. What several add is added in
                their order.
            adapter_scale: factor on what the adapters add.
            overrides: fields of `SamplingParams` to use instead of those in ``params``, or in
                `default_sampling` where there are none.

        Returns:
            The completion; of a list of prompts a list in the same order, in which a prompt that
            failed has the finish reason ``"error"`` and its ``error``.

        Raises:
            InvalidParameterError: the prompt or a parameter is not allowed or not known.
            ContextLengthError: a prompt is longer than the context.
            QueueFullError: too many requests wait.
            BackendError: the model failed on the prompt.
        """
        choose = self._chooser(params, overrides)
        uses = adapter_uses(adapter, adapter_scale)
        requests, single = self._generate_requests(prompt, choose(), stream, uses)
        return self._run(requests, single, stream)

    @overload
    def agenerate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Coroutine[Any, Any, Completion]: ...

    @overload
    def agenerate(
        self,
        prompt: PromptList,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Coroutine[Any, Any, list[Completion]]: ...

    @overload
    def agenerate(
        self,
        prompt: Prompt | PromptList,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> AsyncGenerator[Chunk, None]: ...

    def agenerate(
        self,
        prompt: Prompt | PromptList,
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Coroutine[Any, Any, Completion | list[Completion]] | AsyncGenerator[Chunk, None]:
        """`generate` for coroutines: await it, or with ``stream=True`` iterate over it.

        Cancelling the task, or closing the iterator, cancels the request.
        """
        choose = self._chooser(params, overrides)
        uses = adapter_uses(adapter, adapter_scale)

        def prepare() -> Requests:
            return self._generate_requests(prompt, choose(), stream, uses)

        return self._astream(prepare) if stream else self._acomplete(prepare)

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Completion: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Generator[Chunk, None, None]: ...

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Completion | Generator[Chunk, None, None]:
        """Answers a conversation, written out by the model's chat template.

        Args:
            messages: ``{"role": ..., "content": ...}`` one after another.
            params, stream, adapter, adapter_scale, overrides: as in `generate`.
            tools: functions that the model may call, as JSON schemas, for templates that know
                what to do with them.
            add_generation_prompt: end with the beginning of an answer.
            template: name of one of the model's templates, or the source of another one.
            template_options: further variables of the template.

        Raises:
            TemplateError: there is no template, or it fails on the messages.
            TektraError: as for `generate`.
        """
        choose = self._chooser(params, overrides)
        uses = adapter_uses(adapter, adapter_scale)
        request = self._chat_request(
            messages,
            choose(),
            stream,
            uses,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            template=template,
            options=template_options,
        )
        result = self._run([request], True, stream)
        assert not isinstance(result, list)
        return result

    @overload
    def achat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Coroutine[Any, Any, Completion]: ...

    @overload
    def achat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> AsyncGenerator[Chunk, None]: ...

    def achat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
        **overrides: Any,
    ) -> Coroutine[Any, Any, Completion] | AsyncGenerator[Chunk, None]:
        """`chat` for coroutines: await it, or with ``stream=True`` iterate over it.

        Cancelling the task, or closing the iterator, cancels the request.
        """
        choose = self._chooser(params, overrides)
        uses = adapter_uses(adapter, adapter_scale)

        def prepare() -> Requests:
            request = self._chat_request(
                messages,
                choose(),
                stream,
                uses,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                template=template,
                options=template_options,
            )
            return [request], True

        return self._astream(prepare) if stream else self._acomplete_one(prepare)
