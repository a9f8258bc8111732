defmodule SnakeBridge.Pool.Placement do
  @moduledoc """
  Which session lives on which worker, and which workers there are. Both are tables that callers read themselves.

  A session stays where it is, also when its worker's process dies: the next process of that worker takes it over, without what it held. While a
  process is replaced that still holds something of a session, the session's calls go on there, until Python says that it holds nothing any more.
  """
  alias SnakeBridge.{Breaker, Error, Pool, SessionContext, SessionManager}
  alias SnakeBridge.Exchange.Nesting
  alias SnakeBridge.Pool.{Departure, Lifecycle, SeatClient, Slots}

  # {pool, index} => status, worker; {pool, index, generation} => :leaving, worker, of one that has been replaced
  @workers :snakebridge_workers
  # {pool, session} => index, generation, why what it held is gone
  @placements :snakebridge_placements

  @doc false
  def tables, do: [@workers, @placements]

  @doc "Forgets the sessions of workers that an earlier, larger pool of this name had."
  @spec forget_beyond(atom(), pos_integer()) :: non_neg_integer()
  def forget_beyond(pool, size),
    do: :ets.select_delete(@placements, [{{{pool, :_}, :"$1", :_, :_}, [{:>, :"$1", size}], [true]}])

  # --- sessions ---

  @doc "The worker of a session, waiting for it to be ready; a new session gets the ready worker with the fewest sessions."
  @spec place(map(), String.t()) :: {:ok, map()} | {:error, Error.t()}
  def place(%{pool: pool} = context, session) do
    case :ets.lookup(@placements, {pool, session}) do
      [{_, index, generation, _}] ->
        case :ets.lookup(@workers, {pool, index}) do
          [{_, :ready, %{generation: ^generation} = worker}] -> {:ok, worker}
          rows -> find(rows, index, generation, context, session)
        end

      [] ->
        with :ok <- living(session),
             :ok <- Pool.ensure_running(pool),
             {:ok, worker} <- choose(pool, context) do
          # Two first calls at once must agree.
          if :ets.insert_new(@placements, {{pool, session}, worker.index, worker.generation, nil}) do
            :atomics.add(worker.counts, 3, 1)
            {:ok, worker}
          else
            place(context, session)
          end
        end
    end
  end

  # Its process has been replaced, or died, or takes no calls now.
  defp find(rows, index, generation, %{pool: pool} = context, session) do
    case {:ets.lookup(@workers, {pool, index, generation}), rows} do
      {[{_, :leaving, worker}], _} ->
        with true <- Departure.follows?(session),
             [{_, :ready, next}] <- rows,
             do: depart(worker, next, context, session),
             else: (_ -> {:ok, worker})

      {[], [{_, :ready, next}]} ->
        depart(Slots.living(pool, index, generation), next, context, session)

      {[], [{_, :draining, worker}]} ->
        with :ok <- admitted(pool), do: {:ok, settle(session, worker)}

      _ ->
        with {:ok, worker} <- await_or_another(index, context, session), do: {:ok, settle(session, worker)}
    end
  end

  defp depart(old, next, context, session) do
    case Departure.leave(old, context, session) do
      :here -> {:ok, old}
      :next -> {:ok, settle(session, next)}
      {:error, error} -> {:error, error}
    end
  end

  defp await_or_another(index, %{pool: pool} = context, session),
    do: pool |> await(index, context) |> or_another(context, session)

  # The session goes on in this process.
  defp settle(session, worker) do
    :ets.update_element(@placements, {worker.pool, session}, {3, worker.generation})
    worker
  end

  # While a pool drains, calls from functions that its calls wait for are let through.
  defp admitted(pool) do
    with false <- Nesting.nested?(), %Error{} = refusal <- Lifecycle.refusal(pool) do
      {:error, refusal}
    else
      _ -> :ok
    end
  end

  # --- sessions that move to the process that replaces theirs ---

  @doc "The error of a call to a worker that has been replaced and holds nothing of its session. Nobody but `follow/4` sees it."
  @spec moved(map()) :: Error.t()
  def moved(worker) do
    text = "the worker #{worker.index} of the pool #{inspect(worker.pool)} has been replaced; call again"
    Error.new(:unavailable, text, %{:outcome => :not_started, "moved" => true})
  end

  @doc "Whether an error says that the session goes on in the process that replaces its worker's."
  @spec moved?(Error.t()) :: boolean()
  def moved?(%Error{category: :unavailable, details: %{"moved" => true}}), do: true
  def moved?(_), do: false

  @doc """
  Runs `use` with a worker, and with the one that replaces it when that is where the session goes on. `{:refused, error}`: there is none.
  """
  @spec follow(map(), map(), String.t(), (map() -> result)) :: result | {:refused, Error.t()}
        when result: term()
  def follow(worker, context, session, use) do
    with {:error, %Error{} = error} <- use.(worker) do
      if moved?(error), do: follow_on(worker, context, session, use), else: {:error, error}
    end
  end

  defp follow_on(worker, context, session, use) do
    case next(worker, context, session) do
      {:ok, next} -> follow(next, context, session, use)
      {:error, error} -> {:refused, error}
    end
  end

  @doc "The worker of a session that has no place with this one any more."
  @spec next(map(), map(), String.t()) :: {:ok, map()} | {:error, Error.t()}
  def next(%{pool: pool, index: index, generation: generation}, context, session) do
    with :ok <- admitted(pool) do
      case :ets.lookup(@workers, {pool, index}) do
        [{_, :ready, %{generation: newer}}] when newer != generation ->
          with :next <- Departure.follow(Slots.living(pool, index, generation), context, session) do
            # Only from there: somebody else may have been faster, or the session have ended.
            row = {{pool, session}, index, generation, :_}
            :ets.select_replace(@placements, [{row, [], [{{{{pool, session}}, index, newer, nil}}]}])
            place(context, session)
          end

        _ ->
          with {:ok, _} <- await(pool, index, context), do: place(context, session)
      end
    end
  end

  # A worker that was chosen beforehand, and cannot be had, is given up for any other.
  defp or_another({:error, %Error{category: :worker_start}} = error, %{pool: pool} = context, session) do
    case :ets.select_delete(@placements, [{{{pool, session}, :_, 0, nil}, [], [true]}]) do
      1 -> place(context, session)
      0 -> error
    end
  end

  defp or_another(result, _, _), do: result

  # What would be made in a session that has ended with its process, nobody would release.
  defp living(session) do
    if SessionManager.ended?(session),
      do:
        {:error,
         Error.new(
           :unknown_ref,
           "the session #{session} has ended with the process whose session it was, and what it held is released; " <>
             "make the object again, in a process that lives as long as it is needed",
           %{"session_id" => session}
         )},
      else: :ok
  end

  defp choose(pool, context) do
    case {with_status(pool, :ready), with_status(pool, :draining)} do
      {[], []} -> await_any(pool, Enum.to_list(1..Pool.size(pool)), context)
      {[], draining} -> with :ok <- admitted(pool), do: fewest(draining)
      {ready, _} -> ready |> Breaker.sound(pool, & &1.index) |> fewest()
    end
  end

  defp fewest(workers) do
    {:ok, Enum.min_by(Enum.shuffle(workers), &:atomics.get(&1.counts, 3))}
  end

  # Workers start side by side: the first that is ready will do, and only if none can start is it an error.
  defp await_any(pool, [index], context), do: await(pool, index, context)

  defp await_any(pool, [index | others], context) do
    case await(pool, index, context) do
      {:ok, worker} -> {:ok, worker}
      {:error, %Error{category: :timeout} = error} -> {:error, error}
      {:error, _} -> await_any(pool, others, context)
    end
  end

  defp await(pool, index, context) do
    with :ok <- Pool.ensure_running(pool), do: SeatClient.await(pool, index, Pool.left(context.deadline))
  end

  @doc "The error of a ref that is not there, saying why if its worker has died."
  @spec lost(atom(), String.t(), Error.t()) :: Error.t()
  def lost(pool, session, error) do
    case :ets.lookup(@placements, {pool, session}) do
      [{_, _, _, reason}] when is_binary(reason) ->
        %{
          error
          | category: :session_lost,
            message:
              "the object lived in a Python worker that is gone (#{reason}); make it again in this session, or begin a new one. #{error.message}"
        }

      _ ->
        error
    end
  end

  @doc "How many sessions live on a worker."
  @spec placed_on(atom(), pos_integer()) :: non_neg_integer()
  def placed_on(pool, index), do: :ets.select_count(@placements, [{{{pool, :_}, index, :_, :_}, [], [true]}])

  @doc "Called by a worker whose process died: its sessions stay with its place, but what they held is gone."
  @spec worker_lost(map(), String.t()) :: :ok
  def worker_lost(%{pool: pool, index: index, generation: generation} = worker, reason) do
    # Whoever looks from here on waits for the next.
    :ets.delete(@workers, {pool, index, generation})
    this = [{:==, :"$1", {:const, worker}}]
    :ets.select_replace(@workers, [{{{pool, index}, :_, :"$1"}, this, [{{{{pool, index}}, :down, %{}}}]}])
    mark_lost(pool, index, generation, reason)
  end

  @doc """
  What the sessions of a process (`:_`: of any) of a worker held is gone. That of a session which is recovered is made anew by the next process, when
  it gets a call of it.
  """
  @spec mark_lost(atom(), pos_integer(), non_neg_integer() | :_, String.t()) :: :ok
  def mark_lost(pool, index, generation, reason) do
    for session <- sessions_on(pool, index, generation), not SessionContext.recovered?(session) do
      lose(pool, session, reason)
    end

    :ok
  end

  @doc """
  Sessions that begin again by themselves (`SnakeBridge.Session`) leave a process that is replaced; those that are recovered, with their next call.
  """
  @spec move_servers(atom(), pos_integer(), non_neg_integer(), String.t()) :: :ok
  def move_servers(pool, index, generation, reason) do
    for session <- sessions_on(pool, index, generation),
        SnakeBridge.Session.Server.life?(session) and not SessionContext.recovered?(session) do
      lose(pool, session, reason)
    end

    :ok
  end

  defp lose(pool, session, reason) do
    :ets.update_element(@placements, {pool, session}, {4, reason})
    SnakeBridge.Session.Server.lost(session, reason)
  end

  defp sessions_on(pool, index, generation),
    do: for([session] <- :ets.match(@placements, {{pool, :"$1"}, index, generation, :_}), do: session)

  @doc "Puts the nth of several new sessions on a worker of its own, as far as there are as many; `place/2` waits for it."
  @spec place_on(atom(), String.t(), pos_integer()) :: :ok | {:error, Error.t()}
  def place_on(pool, session, nth) do
    with :ok <- Pool.ensure_running(pool) do
      index = rem(nth - 1, Pool.size(pool)) + 1

      case :ets.lookup(@workers, {pool, index}) do
        [{_, :ready, worker}] ->
          if :ets.insert_new(@placements, {{pool, session}, index, worker.generation, nil}),
            do: :atomics.add(worker.counts, 3, 1)

        _ ->
          # Counted with the others when the worker is ready.
          :ets.insert_new(@placements, {{pool, session}, index, 0, nil})
      end
    end

    :ok
  end

  @doc """
  Puts a new session on the worker that has the fewest, also of those that start: sessions that begin while the pool does would all meet in
  the worker that is ready first.
  """
  @spec spread(atom(), String.t()) :: :ok | {:error, Error.t()}
  def spread(pool, session) do
    with :ok <- Pool.ensure_running(pool) do
      statuses = for index <- 1..Pool.size(pool), do: {index, status(pool, index)}
      start = Enum.filter(statuses, fn {_, {status, _}} -> status in [:ready, :starting] end)
      # Those that are down start again.
      choice =
        if start == [], do: Enum.filter(statuses, fn {_, {status, _}} -> status == :down end), else: start

      unless choice == [] do
        choice = Breaker.sound(choice, pool, &elem(&1, 0))
        {index, _} = choice |> Enum.shuffle() |> Enum.min_by(&load(pool, &1))
        place_on(pool, session, index)
      end
    end

    :ok
  end

  defp status(pool, index) do
    case :ets.lookup(@workers, {pool, index}) do
      [{_, status, worker}] -> {status, worker}
      [] -> {:starting, %{}}
    end
  end

  defp load(_, {_, {:ready, worker}}), do: :atomics.get(worker.counts, 3)
  defp load(pool, {index, _}), do: placed_on(pool, index)

  @doc "The worker of a session, and why what it held there is gone, if it is."
  @spec at(atom(), String.t()) :: {pos_integer(), String.t() | nil} | nil
  def at(pool, session) do
    case :ets.lookup(@placements, {pool, session}) do
      [{_, index, _, reason}] -> {index, reason}
      [] -> nil
    end
  end

  # --- the end of sessions ---

  @doc "Takes a session off its worker; of several that do so at once one does."
  @spec forget(atom(), String.t()) :: :ok
  def forget(pool, session) do
    # Its worker may be another process by now.
    with [{_, index, _, _}] <- :ets.take(@placements, {pool, session}),
         {:ok, worker} <- ready_worker(pool, index),
         do: :atomics.sub(worker.counts, 3, 1)

    :ok
  end

  @doc "Whether a pool has a worker for the session."
  @spec placed?(atom(), String.t()) :: boolean()
  def placed?(pool, session), do: :ets.member(@placements, {pool, session})

  @doc "The worker of a session, if it takes calls now."
  @spec current(atom(), String.t()) :: {:ok, map()} | :none
  def current(pool, session) do
    with [{_, index, generation, _}] <- :ets.lookup(@placements, {pool, session}),
         [] <- :ets.lookup(@workers, {pool, index, generation}) do
      ready_worker(pool, index)
    else
      [{_, :leaving, worker}] -> {:ok, worker}
      [] -> :none
    end
  end

  defp ready_worker(pool, index) do
    case :ets.lookup(@workers, {pool, index}) do
      [{_, :ready, worker}] -> {:ok, worker}
      _ -> :none
    end
  end

  # --- workers ---

  @doc "The workers of a pool that take calls now."
  @spec ready(atom()) :: [map()]
  def ready(pool), do: with_status(pool, :ready)

  defp with_status(pool, status),
    do: for([worker] <- :ets.match(@workers, {{pool, :_}, status, :"$1"}), do: worker)

  @doc "From now on the workers of a pool take no calls from outside."
  @spec drain(atom()) :: non_neg_integer()
  def drain(pool) do
    row = {{pool, :"$1"}, :ready, :"$2"}
    :ets.select_replace(@workers, [{row, [], [{{{{pool, :"$1"}}, :draining, :"$2"}}]}])
  end

  @doc "Processes of a pool that have been replaced and are still needed."
  @spec leaving(atom()) :: [map()]
  def leaving(pool), do: for([worker] <- :ets.match(@workers, {{pool, :_, :_}, :leaving, :"$1"}), do: worker)

  @doc "A process that is replaced stays, for the sessions of which it holds something."
  @spec put_leaving(map()) :: true
  def put_leaving(worker),
    do: :ets.insert(@workers, {{worker.pool, worker.index, worker.generation}, :leaving, worker})

  @doc "No session has a place with this process any more."
  @spec drop_leaving(map()) :: true
  def drop_leaving(worker), do: :ets.delete(@workers, {worker.pool, worker.index, worker.generation})

  @doc "All workers of a pool: index, status, and the process if there is one."
  @spec workers(atom()) :: [{pos_integer(), atom(), map()}]
  def workers(pool),
    do:
      for(
        [index, status, worker] <- :ets.match(@workers, {{pool, :"$1"}, :"$2", :"$3"}),
        do: {index, status, worker}
      )

  @spec put_worker(atom(), pos_integer(), atom(), map()) :: true
  def put_worker(pool, index, status, worker), do: :ets.insert(@workers, {{pool, index}, status, worker})

  @spec drop_worker(atom(), pos_integer()) :: true
  def drop_worker(pool, index) do
    :ets.match_delete(@workers, {{pool, index, :_}, :_, :_})
    :ets.delete(@workers, {pool, index})
  end
end
