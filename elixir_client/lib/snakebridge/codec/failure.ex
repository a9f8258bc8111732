defmodule SnakeBridge.Codec.Failure do
  @moduledoc """
  How the codec gives up in the middle of a walk: a throw that `SnakeBridge.Codec.Packed` and `SnakeBridge.Types` turn into an error at
  the edge. Also renders the value that an error names, short enough for a log line.
  """

  alias SnakeBridge.Error

  @doc "Gives up, with the category and message of the error."
  @spec fail(atom(), String.t()) :: no_return()
  def fail(category, message), do: throw({__MODULE__, category, message})

  @doc "Gives up on what came in. `what` names it and its rule, `parts` (a term, or text about it) are what came."
  @spec malformed(String.t(), term()) :: no_return()
  def malformed(what, parts) do
    shown = if is_binary(parts), do: parts, else: show(parts)
    fail(:decode_error, "#{what} came in: #{shown}; the sender's encoder is broken or the message is corrupt")
  end

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
