defmodule SnakeBridge do
  @moduledoc """
  Python for Elixir.

      {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
      {:ok, iq} = SnakeBridge.call("statistics", "NormalDist", [100, 15])
      {:ok, p} = SnakeBridge.call_method(iq, :cdf, [130])

  Values become their Python counterparts and come back equal and of the same type (docs/types.md). Objects without a counterpart stay in
  Python; a `SnakeBridge.Ref` stands for them, in the session of the process that made it. Keyword options become Python keyword arguments; options
  of ours are under `:__runtime__` (`SnakeBridge.Runtime`). Every function that returns `{:ok, value}` has a bang form.
  """
  import SnakeBridge.Wrapper, only: [bang: 1]

  alias SnakeBridge.Codec.{Arrays, Failure, Typed}
  alias SnakeBridge.{Bytes, Error, Ref, Runtime, SessionContext, Shared, StreamRef, Tensor, ZeroCopyRef}

  @type target :: module() | String.t() | Ref.t() | StreamRef.t()
  @type name :: atom() | String.t()
  @type result :: {:ok, term()} | {:error, Error.t() | term()}

  defguardp is_ref(ref) when is_struct(ref, Ref) or is_struct(ref, StreamRef)

  # --- calls ---

  @doc "Calls a function of a module (\"numpy\", \"pathlib.Path\", a wrapper module), or a method of a ref."
  @spec call(target(), name(), [term()], keyword() | map()) :: result()
  def call(target, function, args \\ [], opts \\ [])
  def call(ref, method, args, opts) when is_ref(ref), do: Runtime.call_method(ref, method, args, opts)
  def call(module, function, args, opts), do: Runtime.call(module, function, args, opts)

  @doc "Calls a method of a ref, or of a value: `call_method(~D[2024-02-29], :isocalendar)`."
  @spec call_method(Ref.t() | StreamRef.t() | term(), name(), [term()], keyword() | map()) :: result()
  def call_method(instance, method, args \\ [], opts \\ []),
    do: Runtime.call_method(instance, method, args, opts)

  @doc "Like `call_method/4`."
  @spec method(Ref.t() | StreamRef.t(), name(), [term()], keyword() | map()) :: result()
  def method(ref, method, args \\ [], opts \\ []), do: call_method(ref, method, args, opts)

  @doc "An attribute of a module or a ref."
  @spec get(target(), name(), keyword() | map()) :: result()
  def get(target, attr, opts \\ [])
  def get(ref, attr, opts) when is_ref(ref), do: Runtime.get_attr(ref, attr, opts)
  def get(module, attr, opts), do: Runtime.get_module_attr(module, attr, opts)

  @doc "An attribute of a ref, or of a value."
  @spec get_attr(Ref.t() | StreamRef.t() | term(), name(), keyword() | map()) :: result()
  def get_attr(instance, attr, opts \\ []), do: Runtime.get_attr(instance, attr, opts)

  @doc "Like `get_attr/3`."
  @spec attr(Ref.t() | StreamRef.t(), name(), keyword() | map()) :: result()
  def attr(ref, attr, opts \\ []), do: get_attr(ref, attr, opts)

  @doc "Sets an attribute of a ref."
  @spec set_attr(Ref.t() | StreamRef.t(), name(), term(), keyword() | map()) :: :ok | {:error, term()}
  def set_attr(ref, attr, value, opts \\ [])
  def set_attr(ref, attr, value, opts) when is_ref(ref), do: Runtime.set_attr(ref, attr, value, opts)

  def set_attr(other, attr, _value, _opts) do
    raise ArgumentError,
          "the attribute #{attr} of #{inspect(other, limit: 5, printable_limit: 60)} cannot be set: it is a value, which has no place in " <>
            "Python; make it with __runtime__: [result: :ref]"
  end

  @doc "Calls a helper of the project (docs/elixir.md)."
  @spec call_helper(String.t(), [term()], keyword() | map()) :: result()
  def call_helper(name, args \\ [], opts \\ []), do: Runtime.call_helper(name, args, opts)

  # --- streams ---

  @doc """
  Streams what a function yields: a generator's items, an iterable's elements.

  Without a callback the result is a lazy enumerable: it is opened when it is first asked for an item and closed, in Python too, when it is left.
  With `callback: fun` the function gets `{:chunk, item}`, then `{:done, value}` or `{:error, error}`; value is what the generator returned with
  `return value`, or nil.
  """
  @spec stream(target(), name(), [term()], keyword() | map() | (term() -> term())) ::
          Enumerable.t() | :ok | {:error, term()}
  def stream(target, function, args \\ [], opts \\ [])

  def stream(target, function, args, callback) when is_function(callback, 1),
    do: Runtime.stream(target, function, args, callback)

  def stream(target, function, args, opts) do
    case if(is_list(opts), do: Keyword.pop(opts, :callback), else: {nil, opts}) do
      {nil, opts} ->
        Runtime.lazy_stream(target, function, args, opts)

      {callback, opts} when is_function(callback, 1) ->
        told(callback, &Runtime.stream_to_end(target, function, args, &1, opts))

      {other, _} ->
        raise ArgumentError, "callback: must be a function of one argument, not #{inspect(other)}"
    end
  end

  @doc "Streams the bare items to `callback`. `:halt` or `{:halt, reason}` from it ends the stream."
  @spec stream(target(), name(), [term()], keyword() | map(), (term() -> term())) :: :ok | {:error, term()}
  def stream(target, function, args, opts, callback) when is_function(callback, 1) do
    Runtime.stream(target, function, args, callback, opts)
  end

  defp told(callback, stream) do
    case stream.(fn item -> callback.({:chunk, item}) end) do
      {:ok, value} ->
        callback.({:done, value})
        :ok

      {:error, error} ->
        callback.({:error, error})
        {:error, error}
    end
  end

  @doc "The next item of a held stream: `{:ok, item}` or `:done`."
  @spec stream_next(StreamRef.t(), keyword()) :: {:ok, term()} | :done | {:error, term()}
  def stream_next(ref, opts \\ []), do: Runtime.stream_next(ref, opts)

  # --- development ---

  @doc """
  Runs a changed Python module again in every worker of every pool, between calls: `SnakeBridge.reload("my_models")`. The answer says in how many
  `workers` it was done, which modules were `reloaded`, and which sessions hold objects of the old code (`stale`), which go on as they are.

  Options: `pool: :name`, `deep: true` (its submodules, too), `wait: ms` (for calls that run, 5 000; `running` says how many still did). A
  module with a mistake stays as it was in that worker, and the mistake is the error (docs/development.md).
  """
  @spec reload(module() | String.t(), keyword()) :: {:ok, SnakeBridge.Reload.report()} | {:error, Error.t()}
  def reload(module, opts \\ []), do: SnakeBridge.Reload.reload(module, opts)

  # --- sessions and refs ---

  @doc "The session in which this process's calls run."
  @spec current_session() :: String.t()
  def current_session, do: SessionContext.current()

  @doc """
  A new session. `pinned: true`: its calls stay on one Python thread; `concurrent: true`: they may run side by side; `recover: :lineage`: what it holds
  is made anew when its worker dies (docs/recovery.md); `max_queue:`, `overflow:` and `max_bytes:` bound what waits for it and what it holds; `pool:`,
  `timeout:` and `retry:` are those of its calls that name none
  (`SnakeBridge.SessionContext.create/1`).
  """
  @spec create_session(keyword()) :: {:ok, String.t()}
  def create_session(opts \\ []), do: SessionContext.create(opts)

  @doc "Ends a session: what it holds in Python is released."
  @spec close_session(String.t()) :: :ok | {:error, term()}
  def close_session(session), do: SessionContext.close(session)

  @doc "Like `close_session/1`."
  @spec release_session(String.t()) :: :ok | {:error, term()}
  def release_session(session \\ current_session()), do: SessionContext.close(session)

  @doc "Runs a function in a session, whoever made it."
  @spec in_session(String.t(), (() -> result)) :: result when result: term()
  def in_session(session, fun) when is_binary(session) and is_function(fun, 0),
    do: SessionContext.inside(session, fun)

  @doc "Releases an object in Python."
  @spec release_ref(Ref.t() | StreamRef.t()) :: :ok | {:error, term()}
  def release_ref(ref) when is_ref(ref), do: with({:ok, _} <- Runtime.release_ref(ref), do: :ok)

  @doc "True for refs and stream refs."
  @spec ref?(term()) :: boolean()
  def ref?(term), do: is_ref(term)

  @doc "Marks a binary as Python `bytes`."
  @spec bytes(binary()) :: Bytes.t()
  def bytes(data), do: Bytes.new(data)

  # --- shared memory ---

  @doc """
  Puts a tensor (`SnakeBridge.Tensor`, `Nx.Tensor`), an Arrow value (`SnakeBridge.Arrow`, an Explorer frame) or bytes into shared memory, where
  Python reads them without a copy. The ref belongs to the session of the calling process and goes with it (docs/sharing.md).
  """
  @spec share(term()) :: {:ok, ZeroCopyRef.t()} | {:error, Error.t()}
  def share(%ZeroCopyRef{} = ref), do: {:ok, ref}
  def share(data) when is_binary(data), do: Shared.put(current_session(), data)
  def share(%Bytes{data: data}) when is_binary(data), do: Shared.put(current_session(), data)

  def share(%{__struct__: kind} = array) when kind in [Tensor, :"Elixir.Nx.Tensor"] do
    Failure.catching(fn ->
      tensor = Arrays.tensor(array)

      with {:ok, ref} <- Shared.put(current_session(), tensor.data),
           do: {:ok, %{ref | kind: :tensor, dtype: tensor.dtype, shape: tensor.shape, order: tensor.order}}
    end)
  end

  def share(%{__struct__: _} = struct) do
    Failure.catching(fn ->
      case Typed.dump(struct) do
        {"arrow", [kind, %Bytes{data: data}]} ->
          with {:ok, ref} <- Shared.put(current_session(), data),
               do: {:ok, %{ref | kind: :arrow, dtype: kind}}

        _ ->
          unshareable(struct)
      end
    end)
  end

  def share(other), do: unshareable(other)

  defp unshareable(term) do
    {:error,
     Error.new(
       :encode_error,
       "#{Failure.show(term)} cannot be shared: only tensors, Arrow values and bytes lie in memory as they travel; pass it as it is"
     )}
  end

  @doc """
  Copies a value out of shared memory and lets its ref go: a `SnakeBridge.Tensor`, `SnakeBridge.Arrow` or `SnakeBridge.Bytes`. Any other term is
  answered as it is. (`SnakeBridge.ZeroCopyRef.read/1` copies and keeps the ref.)
  """
  @spec unshare(ZeroCopyRef.t() | term()) :: {:ok, term()} | {:error, Error.t()}
  def unshare(%ZeroCopyRef{} = ref) do
    with {:ok, value} <- ZeroCopyRef.read(ref) do
      Shared.release(ref)
      {:ok, value}
    end
  end

  def unshare(term), do: {:ok, term}

  @doc """
  Python's `with`: enters a context manager, runs the block with `context` bound to what `__enter__` returned, and leaves it. When the block raises,
  `__exit__` hears of it; the exception goes on unless `__exit__` returns true (the result is then `{:suppressed, exception}`). Throws and
  exits count as exceptions.

      SnakeBridge.with_python(file) do
        SnakeBridge.call_method!(context, :read)
      end

      SnakeBridge.with_python(file, fn f -> SnakeBridge.call_method!(f, :read) end)
  """
  defmacro with_python(ref, body)

  defmacro with_python(ref, do: block) do
    quote do
      SnakeBridge.__with__(unquote(ref), fn var!(context) ->
        _ = var!(context)
        unquote(block)
      end)
    end
  end

  defmacro with_python(ref, fun) do
    quote do: SnakeBridge.__with__(unquote(ref), unquote(fun))
  end

  @doc false
  def __with__(ref, fun) do
    context = call_method!(ref, "__enter__")

    try do
      fun.(context)
    catch
      kind, reason ->
        stacktrace = __STACKTRACE__
        error = Exception.normalize(kind, reason, stacktrace)
        text = if kind == :error, do: Exception.message(error), else: Exception.format_banner(kind, reason)

        if leave(ref, text),
          do: {:suppressed, error},
          else: :erlang.raise(kind, reason, stacktrace)
    else
      result ->
        call_method!(ref, "__exit__", [nil, nil, nil])
        result
    end
  end

  # Python wants an exception; a RuntimeError with the text stands for what Elixir raised, threw or exited with. What Python's `__exit__` raises
  # takes its place, as in Python; that the context manager cannot be reached any more does not.
  defp leave(ref, text) do
    there = [session_id: ref.session_id, pool: ref.pool]

    with {:ok, python} <- call("builtins", "RuntimeError", [text], __runtime__: there),
         {:ok, type} <- get(python, "__class__"),
         {:ok, suppressed} <- call_method(ref, "__exit__", [type, python, nil]) do
      Enum.each([python, type], &release_ref/1)
      suppressed == true
    else
      {:error, %Error{category: :python_error} = error} -> raise error
      {:error, _} -> false
    end
  end

  # --- bang forms ---

  @doc "As `call/4`; raises."
  def call!(target, function, args \\ [], opts \\ []), do: bang(call(target, function, args, opts))
  @doc "As `call_method/4`; raises."
  def call_method!(ref, method, args \\ [], opts \\ []), do: bang(call_method(ref, method, args, opts))
  @doc "As `method/4`; raises."
  def method!(ref, method, args \\ [], opts \\ []), do: bang(call_method(ref, method, args, opts))
  @doc "As `get/3`; raises."
  def get!(target, attr, opts \\ []), do: bang(get(target, attr, opts))
  @doc "As `get_attr/3`; raises."
  def get_attr!(ref, attr, opts \\ []), do: bang(get_attr(ref, attr, opts))
  @doc "As `attr/3`; raises."
  def attr!(ref, attr, opts \\ []), do: bang(get_attr(ref, attr, opts))
  @doc "As `set_attr/4`; raises."
  def set_attr!(ref, attr, value, opts \\ []), do: bang(set_attr(ref, attr, value, opts))
  @doc "As `call_helper/3`; raises."
  def call_helper!(name, args \\ [], opts \\ []), do: bang(call_helper(name, args, opts))
  @doc "As `create_session/1`; raises."
  def create_session!(opts \\ []), do: bang(create_session(opts))
  @doc "As `close_session/1`; raises."
  def close_session!(session), do: bang(close_session(session))
  @doc "As `release_session/1`; raises."
  def release_session!(session \\ current_session()), do: bang(release_session(session))
  @doc "As `share/1`; raises."
  def share!(term), do: bang(share(term))
  @doc "As `unshare/1`; raises."
  def unshare!(term), do: bang(unshare(term))
  @doc "As `release_ref/1`; raises."
  def release_ref!(ref), do: bang(release_ref(ref))
end
