defmodule SnakeBridge.Codec.Failure do
  @moduledoc """
  How the codec gives up in the middle of a walk: a throw that `SnakeBridge.Codec.Packed` and `SnakeBridge.Types` turn into an error at
  the edge. Also renders the value that an error names, short enough for a log line.
  """

  alias SnakeBridge.Error

  @spec fail(atom(), String.t()) :: no_return()
  def fail(category, message), do: throw({__MODULE__, category, message})

  @doc "Runs a walk; what it threw comes back as an error."
  @spec catching((() -> result)) :: result | {:error, Error.t()} when result: term()
  def catching(walk) do
    walk.()
  catch
    {__MODULE__, category, message} -> {:error, %Error{category: category, message: message}}
  end

  @doc "A term as text of at most about a hundred characters."
  @spec show(term()) :: String.t()
  def show(term) do
    text = inspect(term, limit: 8, printable_limit: 80, width: :infinity)
    if String.length(text) > 120, do: String.slice(text, 0, 120) <> "...", else: text
  end
end
