defmodule SnakeBridge.Flow.Run do
  @moduledoc "A run that goes on in a task of its own: `SnakeBridge.Flow.start/2` makes it, `SnakeBridge.Flow.await/2` gives its result."

  @enforce_keys [:run_id, :task, :pool]
  defstruct [:run_id, :task, :pool]

  @type t :: %__MODULE__{run_id: String.t(), task: Task.t(), pool: atom() | nil}
end
