defmodule SnakeBridge.Shared do
  @moduledoc """
  The segments of shared memory (docs/sharing.md): files on a tmpfs that this BEAM and its Python workers both map.

      config :snakebridge, shared: [directory: "/dev/shm", limit: 1_073_741_824, threshold: 262_144]

  `limit` bounds the bytes of all segments together, `threshold` is the size from which results of Python come by segment; `shared: false`
  does without shared memory. A segment is written once and never changed. It is counted: every `SnakeBridge.ZeroCopyRef` holds it, and with the
  last one it is unlinked. A ref is held by its session, and dropped with it.

  Counting is plain ETS in the calling process; `SnakeBridge.Shared.Keeper` makes the directory and unlinks, which takes time.
  """
  alias SnakeBridge.{Error, SessionManager, ZeroCopyRef}
  alias SnakeBridge.Shared.Keeper

  @table __MODULE__
  @used :snakebridge_shared_used
  @limit 1_073_741_824
  @threshold 262_144

  @doc false
  # {{:segment, name}, bytes, holds} (-1: let go, and soon unlinked), {{:hold, session, id}, name}, and the keeper's {{:spare, bytes, name}, since} and {{:control, pid}, true}: the
  # table and the sum of all bytes outlive the keeper.
  def create_table do
    :ets.new(@table, [:named_table, :public, :ordered_set, read_concurrency: true, write_concurrency: true])
    :persistent_term.put({__MODULE__, :total}, :atomics.new(1, []))
    :persistent_term.put({__MODULE__, :directory}, nil)
    # A script ends without stopping its applications.
    System.at_exit(fn _ -> with path when is_binary(path) <- directory(), do: File.rm_rf(path) end)
    :ok
  end

  # --- what there is ---

  @doc "The directory of the segments; nil where no memory can be shared."
  @spec directory() :: String.t() | nil
  def directory, do: :persistent_term.get({__MODULE__, :directory}, nil)

  @doc false
  def put_directory(directory), do: :persistent_term.put({__MODULE__, :directory}, directory)

  @doc "Bytes of all segments, those that are about to be unlinked included."
  @spec total() :: non_neg_integer()
  def total, do: :atomics.get(sum(), 1)

  @doc "Bytes that all segments may have together."
  @spec limit() :: non_neg_integer()
  def limit, do: setting(:limit, @limit)

  @doc "Bytes that may still be shared."
  @spec room() :: non_neg_integer()
  def room, do: max(limit() - total(), 0)

  @doc "The size in bytes from which results come by segment."
  @spec threshold() :: non_neg_integer()
  def threshold, do: setting(:threshold, @threshold)

  @doc false
  def setting(key, default) do
    case Application.get_env(:snakebridge, :shared, []) do
      settings when is_list(settings) -> Keyword.get(settings, key, default)
      _ -> default
    end
  end

  @doc false
  def sum, do: :persistent_term.get({__MODULE__, :total})

  # --- holding ---

  @doc "Writes bytes into a new segment that the session holds; what a ref says of it."
  @spec put(String.t(), binary()) :: {:ok, ZeroCopyRef.t()} | {:error, Error.t()}
  def put(session, data) do
    bytes = byte_size(data)
    # With this process its automatic session ends.
    SessionManager.track()

    with {:ok, directory} <- there(), {:ok, name, size, mode} <- place(bytes) do
      ref = hold_new(session, name, size, :elixir)
      ref = %{ref | bytes: bytes}

      with {:error, reason} <- write(Path.join(directory, name), mode, data) do
        release(ref)
        {:error, unwritten(reason, bytes, directory)}
      else
        :ok -> {:ok, ref}
      end
    end
  end

  @doc "Takes over a segment that a worker has written: from here on it has another name, and the session holds it."
  @spec adopt(String.t(), String.t(), non_neg_integer()) :: {:ok, ZeroCopyRef.t()} | {:error, Error.t()}
  def adopt(session, name, bytes) do
    with {:ok, directory} <- there(), :ok <- reserve(bytes) do
      ref = hold_new(session, new_name(), bytes, :python)

      with {:error, _} <- File.rename(Path.join(directory, name), Path.join(directory, ref.segment)) do
        release(ref)
        {:error, gone(name)}
      else
        :ok -> {:ok, ref}
      end
    end
  end

  @doc "Holds a segment of ours once more, or a part of it."
  @spec hold(String.t(), String.t(), non_neg_integer(), non_neg_integer()) ::
          {:ok, ZeroCopyRef.t()} | {:error, Error.t()}
  def hold(session, name, offset, bytes) do
    case recount(name, [{:>=, :"$2", 0}], {:+, :"$2", 1}) do
      1 -> {:ok, %{ref(session, name, bytes, :elixir) | offset: offset}}
      0 -> {:error, gone(name)}
    end
  end

  # Another number of holds, if the one that it has is as the guards say; how many segments that changed.
  defp recount(name, guards, holds) do
    key = {:segment, name}
    :ets.select_replace(@table, [{{key, :"$1", :"$2"}, guards, [{{{:const, key}, :"$1", holds}}]}])
  end

  # Where bytes may be written: into a segment that was kept, or into a new file.
  defp place(bytes) do
    with {:spare, size, name} = key when size <= 2 * bytes <- :ets.next(@table, {:spare, bytes, ""}),
         [_] <- :ets.take(@table, key) do
      {:ok, name, size, [:read]}
    else
      # Somebody else was faster.
      [] -> place(bytes)
      _ -> with :ok <- reserve(bytes), do: {:ok, new_name(), bytes, [:exclusive]}
    end
  end

  @doc false
  def new_name, do: "s#{:erlang.unique_integer([:positive])}"

  defp hold_new(session, name, bytes, owner) do
    :ets.insert(@table, {{:segment, name}, bytes, 1})
    ref(session, name, bytes, owner)
  end

  defp ref(session, name, bytes, owner) do
    id = :erlang.unique_integer([:positive])
    :ets.insert(@table, {{:hold, session, id}, name})

    %ZeroCopyRef{
      kind: :bytes,
      segment: name,
      offset: 0,
      bytes: bytes,
      owner: owner,
      session_id: session,
      hold: id
    }
  end

  @doc "Whether a ref still holds its segment."
  @spec held?(ZeroCopyRef.t()) :: boolean()
  def held?(%{session_id: session, hold: id}), do: :ets.member(@table, {:hold, session, id})

  @doc "Lets a ref go. The segment is unlinked with its last ref."
  @spec release(ZeroCopyRef.t()) :: :ok
  def release(%{session_id: session, hold: id}), do: let_go({:hold, session, id})

  @doc "Lets go every ref of a session."
  @spec release_session(String.t()) :: :ok
  def release_session(session) do
    for [id] <- :ets.match(@table, {{:hold, session, :"$1"}, :_}), do: let_go({:hold, session, id})
    :ok
  end

  # Taken, so that of two who let a ref go only one counts.
  defp let_go(key) do
    with [{_, name}] <- :ets.take(@table, key),
         0 <- :ets.update_counter(@table, {:segment, name}, {3, -1}),
         # Somebody may hold it again by now.
         1 <- recount(name, [{:"=:=", :"$2", 0}], -1),
         do: Keeper.let_go(name)

    :ok
  end

  defp reserve(bytes) do
    if grab(bytes), do: :ok, else: reserve_again(bytes)
  end

  # What was released is only free when it is unlinked.
  defp reserve_again(bytes) do
    Keeper.make_room()

    if grab(bytes) do
      :ok
    else
      {:error,
       Error.new(
         :limit_exceeded,
         "#{bytes} bytes cannot be shared: #{total()} are, and the limit is #{limit()}; unshare what is no longer needed, " <>
           "or raise config :snakebridge, shared: [limit: bytes]"
       )}
    end
  end

  defp grab(bytes) do
    if :atomics.add_get(sum(), 1, bytes) <= limit(),
      do: true,
      else: :atomics.sub(sum(), 1, bytes) != :ok
  end

  # --- files ---

  defp there do
    case directory() do
      nil ->
        {:error,
         Error.new(
           :unavailable,
           "no memory can be shared here: config :snakebridge, shared: is false, or its directory cannot be made",
           %{outcome: :not_started}
         )}

      directory ->
        {:ok, directory}
    end
  end

  defp write(path, mode, data) do
    with {:ok, file} <- :file.open(path, [:raw, :write, :binary | mode]) do
      with :ok <- private(path, mode), :ok <- :file.write(file, data) do
        :file.close(file)
      else
        error ->
          :file.close(file)
          error
      end
    end
  end

  defp private(path, [:exclusive]), do: File.chmod(path, 0o600)
  defp private(_, _), do: :ok

  @doc "A copy of a part of a segment; no other byte of it is read."
  @spec read(String.t(), non_neg_integer(), non_neg_integer()) :: {:ok, binary()} | {:error, Error.t()}
  def read(name, offset, bytes) do
    with {:ok, directory} <- there(),
         {:ok, file} <- :file.open(Path.join(directory, name), [:raw, :read, :binary]) do
      result = if bytes == 0, do: {:ok, ""}, else: :file.pread(file, offset, bytes)
      :file.close(file)

      case result do
        {:ok, data} when byte_size(data) == bytes -> {:ok, data}
        _ -> {:error, gone(name)}
      end
    else
      {:error, %Error{} = error} -> {:error, error}
      {:error, _} -> {:error, gone(name)}
    end
  end

  @doc "Unlinks what a worker has written and nobody takes over."
  @spec unlink(String.t()) :: :ok
  def unlink(name), do: Keeper.unlink(name)

  defp unwritten(reason, bytes, directory) do
    Error.new(
      :limit_exceeded,
      "#{bytes} bytes cannot be written to #{directory}: #{:file.format_error(reason)}; make room there (in a container: --shm-size), or name " <>
        "another place with config :snakebridge, shared: [directory: path]"
    )
  end

  defp gone(name),
    do:
      Error.new(
        :unavailable,
        "the segment #{name} is gone: it was unshared, its session has ended, or its worker has died; share the value again"
      )

  # --- during calls ---

  @doc "Runs an encoder; also, whether refs were among what it encoded."
  @spec noting((() -> result)) :: {result, boolean()} when result: term()
  def noting(encode) do
    outer = Process.put(@used, false)

    try do
      {encode.(), Process.get(@used)}
    after
      if outer == nil, do: Process.delete(@used), else: Process.put(@used, outer)
    end
  end

  @doc "Notes that a ref is being encoded; false when it holds nothing any more."
  @spec sending?(ZeroCopyRef.t()) :: boolean()
  def sending?(ref) do
    if Process.get(@used) == false, do: Process.put(@used, true)
    held?(ref)
  end

  @doc "What becomes of a segment in an answer: a ref that the session holds, or (`:read`) its bytes, copied at once."
  @spec receive_segment(:refs | :read, String.t(), atom(), {String.t(), non_neg_integer(), non_neg_integer()}) ::
          {:ok, ZeroCopyRef.t() | binary()} | {:error, Error.t()}
  def receive_segment(:refs, session, pool, {"w" <> _ = name, 0, bytes}) do
    case adopt(session, name, bytes) do
      {:ok, ref} -> {:ok, %{ref | pool: pool}}
      # It came after others had taken the room.
      {:error, %Error{category: :limit_exceeded}} -> receive_segment(:read, session, pool, {name, 0, bytes})
      {:error, error} -> {:error, error}
    end
  end

  def receive_segment(:refs, session, pool, {name, offset, bytes}) do
    with {:ok, ref} <- hold(session, name, offset, bytes), do: {:ok, %{ref | pool: pool}}
  end

  def receive_segment(:read, _, _, {name, offset, bytes}) do
    result = read(name, offset, bytes)
    if String.starts_with?(name, "w"), do: unlink(name)
    result
  end
end
