defmodule SnakeBridge.HeldStream do
  @moduledoc false
  # Reads an iterator that Python holds, in batches of 1, 2, 4 ... 256 items. What the consumer did not take is given back, so that the
  # next reader goes on where this one stopped.

  alias SnakeBridge.Runtime

  @largest 256

  def reduce(ref, acc, fun), do: reduce(ref, [], false, 1, acc, fun)

  @doc "As `reduce/3`, and the iterator is released when the reader is done with it, however that happens."
  def reduce_and_release(ref, acc, fun), do: released(ref, fn -> reduce(ref, acc, fun) end)

  defp released(ref, step) do
    case step.() do
      {:suspended, acc, continue} ->
        {:suspended, acc, fn acc -> released(ref, fn -> continue.(acc) end) end}

      ended ->
        Runtime.release_ref(ref)
        ended
    end
  catch
    kind, reason ->
      Runtime.release_ref(ref)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp reduce(ref, items, _done, _size, {:halt, acc}, _fun) do
    :ok = Runtime.stream_unread(ref, length(items))
    {:halted, acc}
  end

  defp reduce(ref, items, done, size, {:suspend, acc}, fun) do
    {:suspended, acc, &reduce(ref, items, done, size, &1, fun)}
  end

  defp reduce(ref, [item | items], done, size, {:cont, acc}, fun),
    do: reduce(ref, items, done, size, handed(ref, item, items, acc, fun), fun)

  defp reduce(_ref, [], true, _size, {:cont, acc}, _fun), do: {:done, acc}

  defp reduce(ref, [], false, size, {:cont, acc}, fun) do
    case Runtime.stream_batch(ref, size) do
      {:ok, items, done} -> reduce(ref, items, done, min(2 * size, @largest), {:cont, acc}, fun)
      {:error, error} -> raise error
    end
  end

  # A reader that raises has stopped, too.
  defp handed(ref, item, items, acc, fun) do
    fun.(item, acc)
  catch
    kind, reason ->
      Runtime.stream_unread(ref, length(items))
      :erlang.raise(kind, reason, __STACKTRACE__)
  end
end

defimpl Enumerable, for: SnakeBridge.StreamRef do
  def count(_), do: {:error, __MODULE__}
  def member?(_, _), do: {:error, __MODULE__}
  def slice(_), do: {:error, __MODULE__}
  def reduce(ref, acc, fun), do: SnakeBridge.HeldStream.reduce(ref, acc, fun)
end

defimpl Enumerable, for: SnakeBridge.Ref do
  alias SnakeBridge.Runtime

  # Objects without a length or a membership test of their own are iterated.
  def count(ref) do
    case Runtime.call_method(ref, "__len__", [], mutates: false) do
      {:ok, n} when is_integer(n) -> {:ok, n}
      _ -> {:error, __MODULE__}
    end
  end

  def member?(ref, item) do
    case Runtime.call_method(ref, "__contains__", [item], mutates: false) do
      {:ok, answer} when is_boolean(answer) -> {:ok, answer}
      _ -> {:error, __MODULE__}
    end
  end

  def slice(_), do: {:error, __MODULE__}

  def reduce(ref, acc, fun) do
    case Runtime.call_dynamic("builtins", "iter", [ref],
           mutates: false,
           __runtime__: [session_id: ref.session_id, pool: ref.pool]
         ) do
      {:ok, %SnakeBridge.StreamRef{} = iterator} ->
        # An iterator is its own iter(): that one is the user's. Any other was made here and nobody else knows it.
        if iterator.id == ref.id,
          do: SnakeBridge.HeldStream.reduce(iterator, acc, fun),
          else: SnakeBridge.HeldStream.reduce_and_release(iterator, acc, fun)

      {:ok, other} ->
        raise ArgumentError, "iter() of #{inspect(ref)} gave #{inspect(other)}, which is no iterator"

      {:error, error} ->
        raise error
    end
  end
end

defimpl String.Chars, for: [SnakeBridge.Ref, SnakeBridge.StreamRef] do
  def to_string(ref) do
    case SnakeBridge.Runtime.call_method(ref, "__str__", [], mutates: false) do
      {:ok, text} when is_binary(text) -> text
      _ -> inspect(ref)
    end
  end
end
