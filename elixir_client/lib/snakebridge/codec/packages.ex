defmodule SnakeBridge.Codec.Packages do
  @moduledoc """
  Which of the packages that the codec can work with, but does not depend on, are there: Decimal, Nx, Explorer. Looked up once each, because
  the runtime searches the disk for a module that does not exist every time it is asked.
  """

  @doc "Whether a module is there."
  @spec loaded?(module()) :: boolean()
  def loaded?(module) do
    case :persistent_term.get({__MODULE__, module}, nil) do
      nil ->
        found? = Code.ensure_loaded?(module)
        :persistent_term.put({__MODULE__, module}, found?)
        found?

      found? ->
        found?
    end
  end

  @doc "Forgets what was found: a module was loaded, or purged, at run time."
  @spec forget(module()) :: boolean()
  def forget(module), do: :persistent_term.erase({__MODULE__, module})
end
