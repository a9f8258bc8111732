defmodule SnakeBridge.Pool.Placement do
  @moduledoc """
  Which session lives on which worker, and which workers there are. Both are tables that callers read themselves.

  A session stays where it is, also when its worker's process dies: the next process of that worker takes it over, without what it held.
  """
  alias SnakeBridge.{Breaker, Error, Pool, SessionManager}
  alias SnakeBridge.Pool.Worker

  # {pool, index} => status, worker
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
      [{_, index, _, _}] ->
        case :ets.lookup(@workers, {pool, index}) do
          [{_, :ready, worker}] -> {:ok, worker}
          _ -> pool |> await(index, context) |> or_another(context, session)
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
    ready = ready(pool)

    case ready do
      [] ->
        await_any(pool, Enum.to_list(1..Pool.size(pool)), context)

      _ ->
        {:ok,
         ready
         |> Breaker.sound(pool, & &1.index)
         |> Enum.shuffle()
         |> Enum.min_by(&:atomics.get(&1.counts, 3))}
    end
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
    with :ok <- Pool.ensure_running(pool), do: Worker.await(pool, index, Pool.left(context.deadline))
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

  @doc "Called by a worker whose process died: its sessions stay with it, but what they held is gone."
  @spec mark_lost(atom(), pos_integer(), String.t()) :: :ok
  def mark_lost(pool, index, reason) do
    for [key] <- :ets.match(@placements, {{pool, :"$1"}, index, :_, :_}) do
      :ets.update_element(@placements, {pool, key}, {4, reason})
      SnakeBridge.Session.Server.lost(key, reason)
    end

    :ok
  end

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
    case :ets.lookup(@placements, {pool, session}) do
      [{_, index, _, _}] -> ready_worker(pool, index)
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
  def ready(pool), do: for([worker] <- :ets.match(@workers, {{pool, :_}, :ready, :"$1"}), do: worker)

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
  def drop_worker(pool, index), do: :ets.delete(@workers, {pool, index})
end
