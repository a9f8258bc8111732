defmodule SnakeBridge.Test.Eventually do
  @moduledoc "Waits for what other processes do, where no message tells of it."

  @spec eventually((() -> as_boolean(term()))) :: boolean()
  @doc "True as soon as `check` gives something true, false when it has not within a minute."
  def eventually(check), do: again(check, System.monotonic_time(:millisecond) + 60_000)

  defp again(check, until) do
    cond do
      check.() -> true
      System.monotonic_time(:millisecond) > until -> false
      true -> Process.sleep(10) && again(check, until)
    end
  end
end
