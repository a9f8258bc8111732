defmodule SnakeBridge.Codec.Typed.Python do
  @moduledoc """
  The named types of Python's standard library but those of time: what `SnakeBridge.Codec.Typed` asks of a family.
  """

  alias SnakeBridge.{
    Arrow,
    Bytes,
    Decimal,
    Ellipsis,
    Fraction,
    IP,
    NamedTuple,
    Namespace,
    OrderedMap,
    Path,
    Pattern,
    Slice,
    Text,
    UUID,
    ZeroCopyRef
  }

  @paths ~w(PosixPath WindowsPath PurePosixPath PureWindowsPath)
  @addresses ~w(IPv4Address IPv6Address IPv4Network IPv6Network IPv4Interface IPv6Interface)

  defguardp is_decimal(sign, coef, exp, plus, minus)
            when sign in [plus, minus] and is_integer(coef) and coef >= 0 and
                   (is_integer(exp) or exp in ["n", "N"] or (exp == "F" and coef == 0))

  @spec dump(struct()) :: {:ok, term()} | {:error, String.t()}
  def dump(%NamedTuple{type: type, fields: fields, values: values}) do
    if text?(type) and proper?(fields) and proper?(values) and Enum.all?(fields, &text?/1) and
         length(fields) == length(values),
       do: {:ok, [type, fields, values]},
       else:
         {:error, "its type must be text, its fields a list of texts, its values a list of the same length"}
  end

  def dump(%SnakeBridge.Enum{type: type, name: name, value: value}) do
    if text?(type) and (name == nil or text?(name)),
      do: {:ok, [type, name, value]},
      else: {:error, "its type must be text, and its name text or nil"}
  end

  def dump(%Slice{start: start, stop: stop, step: step}), do: {:ok, [start, stop, step]}
  def dump(%Ellipsis{}), do: {:ok, nil}

  def dump(%Decimal{sign: sign, coef: coef, exp: exp}) when is_decimal(sign, coef, exp, 1, -1),
    do: {:ok, [if(sign == 1, do: 0, else: 1), coef, exp]}

  def dump(%Decimal{}),
    do:
      {:error,
       ~S(its sign must be 1 or -1, its coef an integer >= 0, its exp an integer, "n", "N", or "F" with a coef of 0)}

  def dump(%Fraction{numerator: n, denominator: d}) do
    if is_integer(n) and is_integer(d) and d > 0 and Integer.gcd(n, d) == 1,
      do: {:ok, [n, d]},
      else:
        {:error,
         "it must be in lowest terms with a denominator above 0; SnakeBridge.Fraction.new/2 makes it so"}
  end

  def dump(%UUID{text: text}) do
    if uuid?(text),
      do: {:ok, text},
      else: {:error, "its text must be 36 characters in lower case: 8-4-4-4-12 hexadecimal digits"}
  end

  def dump(%Path{type: type, path: path}) do
    if type in @paths and path_text?(path),
      do: {:ok, [type, path]},
      else: {:error, "its type must be one of #{Enum.join(@paths, ", ")}, and its path text"}
  end

  def dump(%Namespace{fields: fields}) do
    if names?(fields), do: {:ok, fields}, else: {:error, "its fields must be a map with texts as keys"}
  end

  def dump(%IP{type: type, text: text}) do
    if type in @addresses and text?(text),
      do: {:ok, [type, text]},
      else: {:error, "its type must be one of #{Enum.join(@addresses, ", ")}, and its text text"}
  end

  def dump(%Pattern{source: source, flags: flags}) do
    if pattern?(source, flags),
      do: {:ok, [source, flags]},
      else: {:error, "its source must be text or SnakeBridge.Bytes, its flags a number"}
  end

  def dump(%Arrow{kind: kind, data: data}) do
    if text?(kind) and is_binary(data),
      do: {:ok, [kind, %Bytes{data: data}]},
      else: {:error, "its kind must be text, its data a binary"}
  end

  @spec load(String.t(), term(), SnakeBridge.Codec.Options.t()) :: {:ok, term()} | :error
  def load("namedtuple", [type, fields, values], _)
      when is_binary(type) and is_list(fields) and is_list(values) and length(fields) == length(values) do
    if text?(type) and Enum.all?(fields, &text?/1),
      do: {:ok, %NamedTuple{type: type, fields: fields, values: values}},
      else: :error
  end

  def load("enum", [type, name, value], _) do
    if text?(type) and (name == nil or text?(name)),
      do: {:ok, %SnakeBridge.Enum{type: type, name: name, value: value}},
      else: :error
  end

  def load("slice", [start, stop, step], _), do: {:ok, %Slice{start: start, stop: stop, step: step}}
  def load("ellipsis", nil, _), do: {:ok, %Ellipsis{}}

  def load("decimal", [sign, coef, exp], _) when is_decimal(sign, coef, exp, 0, 1),
    do: {:ok, %Decimal{sign: if(sign == 0, do: 1, else: -1), coef: coef, exp: exp}}

  def load("fraction", [n, d], _) when is_integer(n) and is_integer(d) and d > 0 do
    if Integer.gcd(n, d) == 1, do: {:ok, %Fraction{numerator: n, denominator: d}}, else: :error
  end

  def load("uuid", text, _), do: if(uuid?(text), do: {:ok, %UUID{text: text}}, else: :error)

  def load("path", [type, path], _) when type in @paths,
    do: if(path_text?(path), do: {:ok, %Path{type: type, path: path}}, else: :error)

  def load("namespace", fields, _),
    do: if(names?(fields), do: {:ok, %Namespace{fields: fields}}, else: :error)

  def load("ip", [type, text], _) when type in @addresses,
    do: if(text?(text), do: {:ok, %IP{type: type, text: text}}, else: :error)

  def load("pattern", [source, flags], opts) do
    # Bytes are bytes here, whatever becomes of them elsewhere: a pattern of text is another one.
    source =
      if opts.bytes == :binary and is_binary(source) and flags == 0, do: %Bytes{data: source}, else: source

    if pattern?(source, flags), do: {:ok, %Pattern{source: source, flags: flags}}, else: :error
  end

  def load("arrow", [kind, %ZeroCopyRef{} = ref], _) when is_binary(kind),
    do: {:ok, %{ref | kind: :arrow, dtype: :binary.copy(kind)}}

  def load("arrow", [kind, %Bytes{data: data}], _) when is_binary(kind),
    do: {:ok, %Arrow{kind: kind, data: data}}

  def load("arrow", [kind, data], %{bytes: :binary}) when is_binary(kind) and is_binary(data),
    do: {:ok, %Arrow{kind: kind, data: data}}

  def load(_tag, _payload, _opts), do: :error

  defp text?(text), do: is_binary(text) and String.valid?(text)
  defp proper?(list), do: is_list(list) and not List.improper?(list)
  defp path_text?(path), do: text?(path) or is_struct(path, Text)

  defp names?(%OrderedMap{pairs: pairs}),
    do: is_list(pairs) and Enum.all?(pairs, fn {name, _} -> text?(name) end)

  defp names?(%{} = fields), do: not is_struct(fields) and Enum.all?(Map.keys(fields), &text?/1)
  defp names?(_), do: false

  defp pattern?(source, flags),
    do:
      is_integer(flags) and flags >= 0 and
        (text?(source) or is_struct(source, Text) or match?(%Bytes{data: data} when is_binary(data), source))

  defp uuid?(text), do: is_binary(text) and text =~ ~r/\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z/
end
