defmodule SnakeBridge.Codec.Typed.Native do
  @moduledoc """
  The named types of Elixir's standard library and of packages that may be there: what `SnakeBridge.Codec.Typed` asks of a family.

  A value that its text or fields do not give back exactly is `:foreign`, and travels as an opaque term.
  """

  alias SnakeBridge.{Arrow, Bytes, Pattern}
  alias SnakeBridge.Codec.{Expressions, Moments, Options, Packages}
  alias SnakeBridge.Codec.Typed.Python

  # The names of packages, which are written so because SnakeBridge.Decimal is another one.
  @decimal :"Elixir.Decimal"
  @frame :"Elixir.Explorer.DataFrame"

  @spec dump(struct()) :: {:ok, term()} | {:as, String.t(), term()} | :foreign | {:error, String.t()}
  def dump(%Range{first: first, last: last, step: step})
      when is_integer(first) and is_integer(last) and is_integer(step) and step != 0,
      do: {:ok, [first, last + sign(step), step]}

  def dump(%Range{}), do: {:error, "its first, last and step must be integers, and its step not 0"}

  def dump(%Regex{} = regex), do: Expressions.dump(regex)
  def dump(%URI{} = uri), do: text(uri, &load_uri/1)
  def dump(%Version{} = version), do: text(version, &Version.parse/1)

  def dump(%Date.Range{first: %Date{} = first, last: %Date{} = last, step: step} = range)
      when is_integer(step) and step != 0 do
    if Moments.check(first) == :ok and Moments.check(last) == :ok and Date.range(first, last, step) === range,
      do: {:ok, [first, last, step]},
      else: :foreign
  end

  def dump(%Date.Range{}), do: :foreign

  def dump(%{__struct__: @decimal, sign: sign, coef: coef, exp: exp}) when sign in [1, -1] do
    bit = if sign == 1, do: 0, else: 1

    case {coef, exp} do
      {:NaN, 0} -> {:ok, [bit, 0, "n"]}
      {:inf, 0} -> {:ok, [bit, 0, "F"]}
      {coef, exp} when is_integer(coef) and coef >= 0 and is_integer(exp) -> {:ok, [bit, coef, exp]}
      _ -> :foreign
    end
  end

  def dump(%{__struct__: @decimal}), do: :foreign

  def dump(%{__struct__: @frame} = frame),
    do: {:ok, ["table", %Bytes{data: apply(@frame, :dump_ipc_stream!, [frame])}]}

  @spec load(String.t(), term(), Options.t()) :: {:ok, term()} | :error
  def load("range", [start, stop, step], _)
      when is_integer(start) and is_integer(stop) and is_integer(step) and step != 0,
      do: {:ok, Range.new(start, stop - sign(step), step)}

  def load("pattern", payload, opts) do
    with {:ok, %Pattern{} = pattern} <- Python.load("pattern", payload, opts),
         do: {:ok, Expressions.of_pattern(pattern)}
  end

  def load("regex", [source, options], _) when is_binary(source) and is_binary(options),
    do: Expressions.of_regex(source, options)

  def load("uri", text, _) when is_binary(text), do: if(String.valid?(text), do: load_uri(text), else: :error)
  def load("version", text, _) when is_binary(text), do: Version.parse(text)

  def load("date_range", [%Date{} = first, %Date{} = last, step], _) when is_integer(step) and step != 0,
    do: {:ok, Date.range(first, last, step)}

  def load("decimal", payload, opts) do
    with {:ok, decimal} <- Python.load("decimal", payload, opts), do: {:ok, to_package(decimal)}
  end

  def load("arrow", payload, opts) do
    with {:ok, %Arrow{} = arrow} <- Python.load("arrow", payload, opts), do: {:ok, to_frame(arrow, opts)}
  end

  def load(_tag, _payload, _opts), do: :error

  defp sign(step), do: if(step > 0, do: 1, else: -1)

  # What a text gives must be the very same term: a URI of URI.new/1, say, is not that of URI.parse/1.
  defp text(value, read) do
    text = to_string(value)
    if String.valid?(text) and read.(text) === {:ok, value}, do: {:ok, text}, else: :foreign
  rescue
    # Of a struct with fields that no parser makes there is no text.
    _ -> :foreign
  end

  defp load_uri(text), do: {:ok, URI.parse(text)}

  # The package has no payloads of NaNs, and no signalling ones.
  defp to_package(%{sign: sign, coef: coef, exp: exp} = decimal) do
    fields =
      case {coef, exp} do
        {0, "n"} -> {:NaN, 0}
        {0, "F"} -> {:inf, 0}
        {_, exp} when is_integer(exp) -> {coef, exp}
        _ -> nil
      end

    if fields != nil and Packages.loaded?(@decimal),
      do: struct!(@decimal, sign: sign, coef: elem(fields, 0), exp: elem(fields, 1)),
      else: decimal
  end

  defp to_frame(%Arrow{kind: kind, data: data} = arrow, opts) do
    wanted = opts.frames || Application.get_env(:snakebridge, :frames, :arrow)

    if wanted == :explorer and kind in ["table", "record_batch", "pandas", "polars"] and
         Packages.loaded?(@frame),
       do: apply(@frame, :load_ipc_stream!, [data]),
       else: arrow
  end
end
