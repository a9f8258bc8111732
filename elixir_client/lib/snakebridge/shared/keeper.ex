defmodule SnakeBridge.Shared.Keeper do
  @moduledoc """
  The process behind `SnakeBridge.Shared`: makes the directory, unlinks what nobody holds, and removes both at the end.

  New memory costs the kernel more than writing it does, so a large segment that nobody holds is kept for the next value a while - if no process
  maps it any more, which a worker asks the kernel (`recycle`, docs/wire.md section 2.2).
  """
  use GenServer

  require Logger

  alias SnakeBridge.Pool.Control
  alias SnakeBridge.Shared
  alias SnakeBridge.Shared.Directory

  @table Shared
  # Smaller segments are not worth keeping, and none is kept longer than two looks.
  @kept_from 1_048_576
  @look_every 5_000

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Puts a segment away that nobody holds any more: its holds are -1 in the table."
  @spec let_go(String.t()) :: :ok
  def let_go(name), do: GenServer.cast(__MODULE__, {:let_go, name})

  @doc "Unlinks a segment that was never held."
  @spec unlink(String.t()) :: :ok
  def unlink(name), do: GenServer.cast(__MODULE__, {:unlink, name})

  @doc "Unlinks all that nobody holds, now."
  @spec make_room() :: :ok
  def make_room, do: GenServer.call(__MODULE__, :make_room)

  @doc "The control connection of a worker, to ask whether a segment is still mapped."
  @spec offer(pid()) :: :ok
  def offer(control) do
    # In the table, too: this process may be restarted.
    :ets.insert(@table, {{:control, control}, true})
    GenServer.cast(__MODULE__, {:offer, control})
  end

  @doc "A worker has died: what it had written and nobody has taken over yet is unlinked."
  @spec worker_gone(pos_integer() | nil) :: :ok
  def worker_gone(nil), do: :ok
  def worker_gone(os_pid), do: GenServer.cast(__MODULE__, {:worker_gone, os_pid})

  # directory; controls: monitor => control connection of a worker; asked: segment => its new name, its size, and who was asked
  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    Process.send_after(self(), :look, @look_every)
    state = %{directory: nil, controls: %{}, asked: %{}}

    cond do
      Application.get_env(:snakebridge, :shared, []) == false ->
        {:ok, state}

      is_binary(Shared.directory()) and File.dir?(Shared.directory()) ->
        {:ok, %{state | directory: Shared.directory()}, {:continue, :tidy}}

      true ->
        {:ok, %{state | directory: make()}}
    end
  end

  defp make do
    case Directory.make(Shared.setting(:directory, nil)) do
      {:ok, directory} ->
        Shared.put_directory(directory)
        directory

      {:error, text} ->
        Logger.warning("SnakeBridge: no memory is shared with Python: #{text}")
        nil
    end
  end

  # What the process before this one should have unlinked; a segment is in the table before it is a file.
  @impl true
  def handle_continue(:tidy, state) do
    :ets.match_delete(@table, {{:spare, :_, :_}, :_})
    :ets.match_delete(@table, {{:segment, :_}, :_, -1})

    for "s" <> _ = name <- files(state.directory),
        not :ets.member(@table, {:segment, name}),
        do: rm(state, name)

    held = Enum.sum(for [bytes] <- :ets.match(@table, {{:segment, :_}, :"$1", :_}), do: bytes)
    :atomics.put(Shared.sum(), 1, held)

    controls =
      for [control] <- :ets.match(@table, {{:control, :"$1"}, :_}), do: {Process.monitor(control), control}

    {:noreply, %{state | controls: Map.new(controls)}}
  end

  # Everything that was released and is still there goes.
  @impl true
  def handle_call(:make_room, _, state) do
    for {name, {new_name, bytes, _}} <- state.asked, do: remove(name, new_name, bytes, state)
    drop_spares(System.monotonic_time(:millisecond), state)
    {:reply, :ok, %{state | asked: %{}}}
  end

  @impl true
  def handle_cast({:let_go, name}, state) do
    case :ets.take(@table, {:segment, name}) do
      [{_, bytes, -1}] -> {:noreply, put_away(name, bytes, state)}
      # It was put away when this process began.
      [] -> {:noreply, state}
    end
  end

  def handle_cast({:unlink, name}, state) do
    rm(state, name)
    {:noreply, state}
  end

  def handle_cast({:worker_gone, os_pid}, state) do
    prefix = "w#{os_pid}-"

    for name <- files(state.directory), String.starts_with?(name, prefix), do: rm(state, name)
    {:noreply, state}
  end

  def handle_cast({:offer, control}, state),
    do: {:noreply, put_in(state.controls[Process.monitor(control)], control)}

  @impl true
  def handle_info({:recycled, name, unmapped?}, state) when is_map_key(state.asked, name) do
    {{new_name, bytes, _}, asked} = Map.pop(state.asked, name)

    if unmapped?,
      do: :ets.insert(@table, {{:spare, bytes, new_name}, System.monotonic_time(:millisecond)}),
      else: remove(name, new_name, bytes, state)

    {:noreply, %{state | asked: asked}}
  end

  def handle_info({:DOWN, monitor, _, control, _}, state) when is_map_key(state.controls, monitor) do
    :ets.delete(@table, {:control, control})
    lost = for {name, {_, _, ^monitor} = kept} <- state.asked, do: {name, kept}
    asked = Map.drop(state.asked, Enum.map(lost, &elem(&1, 0)))
    for {name, {new_name, bytes, _}} <- lost, do: remove(name, new_name, bytes, state)
    {:noreply, %{state | controls: Map.delete(state.controls, monitor), asked: asked}}
  end

  def handle_info(:look, state) do
    Process.send_after(self(), :look, @look_every)
    drop_spares(System.monotonic_time(:millisecond) - @look_every, state)
    {:noreply, state}
  end

  def handle_info(_, state), do: {:noreply, state}

  defp put_away(name, bytes, state) do
    if bytes >= @kept_from and map_size(state.controls) > 0 and
         kept(state) + bytes <= div(Shared.limit(), 4) do
      {monitor, control} = Enum.at(state.controls, 0)
      new_name = Shared.new_name()
      Control.recycle(control, name, new_name, self())
      put_in(state.asked[name], {new_name, bytes, monitor})
    else
      remove(name, name, bytes, state)
      state
    end
  end

  defp kept(state) do
    spare = for [bytes] <- :ets.match(@table, {{:spare, :"$1", :_}, :_}), do: bytes
    Enum.sum(spare) + Enum.sum(for {_, {_, bytes, _}} <- state.asked, do: bytes)
  end

  defp drop_spares(before, state) do
    for {{_, bytes, name} = key, since} <- :ets.match_object(@table, {{:spare, :_, :_}, :_}),
        since <= before,
        [_] <- [:ets.take(@table, key)],
        do: remove(name, name, bytes, state)
  end

  # Under either name: the worker may or may not have given it the new one.
  defp remove(name, new_name, bytes, state) do
    rm(state, name)
    if new_name != name, do: rm(state, new_name)
    :atomics.sub(Shared.sum(), 1, bytes)
  end

  # A script that ends has removed the directory before its workers end, and somebody may tidy up.
  defp files(nil), do: []
  defp files(directory), do: with({:ok, names} <- File.ls(directory), do: names, else: (_ -> []))

  defp rm(%{directory: nil}, _), do: :ok
  defp rm(%{directory: directory}, name), do: :file.delete(Path.join(directory, name), [:raw])

  @impl true
  def terminate(reason, %{directory: directory}) do
    # A crash is followed by a restart, and refs live on.
    if directory && (reason == :shutdown or match?({:shutdown, _}, reason)) do
      Shared.put_directory(nil)
      File.rm_rf(directory)
    end
  end
end
