"""From what callers of `tektra.LLM` pass to requests, and from results back to what they want.

It knows texts, messages and event loops; the engine below it knows none of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any

from tektra.engine.delivery import aiter_chunks, complete, complete_async, iter_chunks
from tektra.engine.engine import Engine
from tektra.engine.local_model import LocalModel
from tektra.engine.outputs import Chunk, Completion
from tektra.engine.prompts import Message, Prompt, PromptList, encode_prompt, split_prompts
from tektra.engine.request import AdapterUse, GenerateRequest
from tektra.engine.sampling_params import SamplingParams
from tektra.errors import InvalidParameterError

__all__ = ["AskedModel", "Requests"]

Requests = tuple[list[GenerateRequest], bool]
"""What to run, and whether the caller asked for one thing rather than a list."""


class AskedModel(LocalModel):
    """The part of `tektra.LLM` between its calls and the engine."""

    def _chooser(
        self, params: SamplingParams | None, overrides: Mapping[str, Any]
    ) -> Callable[[], SamplingParams]:
        """Checks the settings now; what it returns waits for the model where that must be asked."""
        if params is not None and not isinstance(params, SamplingParams):
            raise InvalidParameterError("params", f"must be SamplingParams, not {params!r:.60}")
        chosen = (params or SamplingParams()).replace(**overrides)
        if params is not None:
            return lambda: chosen
        return lambda: self.default_sampling.replace(**overrides)

    def _generate_requests(
        self,
        prompt: Prompt | PromptList,
        params: SamplingParams,
        stream: bool,
        adapters: tuple[AdapterUse, ...],
    ) -> Requests:
        model = self._runtime.ready().model
        model.require("logits")
        tokenizer = model.tokenizer
        params.check_vocab(tokenizer.vocab_size)
        prompts, single = split_prompts(prompt)
        requests = [
            GenerateRequest(
                prompt=encode_prompt(
                    tokenizer, item, name="prompt" if single else f"prompt[{index}]"
                ),
                params=params,
                stream=stream,
                index=index,
                adapters=adapters,
            )
            for index, item in enumerate(prompts)
        ]
        return requests, single

    def _chat_request(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        stream: bool,
        adapters: tuple[AdapterUse, ...],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        template: str | None,
        options: Mapping[str, Any] | None,
    ) -> GenerateRequest:
        ready = self._runtime.ready()
        ready.model.require("logits")
        params.check_vocab(ready.model.tokenizer.vocab_size)
        tokens = ready.chat.encode(
            messages,
            template=template,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            options=options,
        )
        return GenerateRequest(
            prompt=tokens,
            params=params,
            stream=stream,
            continues_text=False,
            adapters=adapters,
        )

    def _run(
        self, requests: list[GenerateRequest], single: bool, stream: bool
    ) -> Completion | list[Completion] | Generator[Chunk, None, None]:
        engine = self._runtime.ready().engine
        if stream:
            return self._stream(engine, requests)
        completions = complete(engine, requests, raise_errors=single)
        return completions[0] if single else completions

    def _stream(
        self, engine: Engine, requests: list[GenerateRequest]
    ) -> Generator[Chunk, None, None]:
        # A method, so that the model lives as long as somebody reads: `LLM(...).generate(...)`.
        yield from iter_chunks(engine, requests)

    async def _acomplete(self, prepare: Callable[[], Requests]) -> Completion | list[Completion]:
        import asyncio  # here, because it is a tenth of the time that importing tektra.llm takes

        # Waiting for a model that still loads, and tokenizing a long text, block: not here.
        requests, single = await asyncio.to_thread(prepare)
        engine = self._runtime.ready().engine
        completions = await complete_async(engine, requests, raise_errors=single)
        return completions[0] if single else completions

    async def _acomplete_one(self, prepare: Callable[[], Requests]) -> Completion:
        result = await self._acomplete(prepare)
        assert isinstance(result, Completion)
        return result

    async def _astream(self, prepare: Callable[[], Requests]) -> AsyncGenerator[Chunk, None]:
        import asyncio

        requests, _ = await asyncio.to_thread(prepare)
        chunks = aiter_chunks(self._runtime.ready().engine, requests)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await chunks.aclose()
