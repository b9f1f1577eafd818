/** An example of each task in each language: texts, and values of its fields. */
import type { Language } from "../i18n";

export interface Example {
  texts: string[];
  values: Record<string, string>;
}

export const EXAMPLES: Record<string, Record<Language, Example>> = {
  classify: {
    en: {
      texts: ["The parcel never came.", "Please send me an invoice.", "How do I reset my password?"],
      values: { labels: "delivery, billing, account", words: "3" },
    },
    zh: { texts: ["包裹一直没到。", "请给我开发票。", "怎么重置密码？"], values: { labels: "物流，账单，账户", words: "3" } },
  },
  sentiment: {
    en: { texts: ["I love it, it works at once.", "It broke after a day."], values: { words: "3" } },
    zh: { texts: ["非常喜欢，一次就好用。", "用了一天就坏了。"], values: { words: "3" } },
  },
  decide: {
    en: {
      texts: ["The parcel is three weeks late and nobody answers.", "Thank you, everything is fine."],
      values: { type: "predicate", instructions: "Does the customer complain?" },
    },
    zh: {
      texts: ["包裹晚了三个星期，也没有人回复。", "谢谢，一切都好。"],
      values: { type: "predicate", instructions: "顾客在投诉吗？" },
    },
  },
  summarize: {
    en: {
      texts: [
        "The library lends books and tools. Members may keep a thing for three weeks. Whoever is late pays ten cents a day. " +
          "The house is open from nine to six on weekdays.",
      ],
      values: { sentences: "1" },
    },
    zh: {
      texts: ["图书馆出借图书和工具。会员可以借用三周。逾期每天付一角钱。平日九点到六点开放。"],
      values: { sentences: "1" },
    },
  },
  translate: {
    en: { texts: ["Good morning. Where is the station?"], values: { target: "zh" } },
    zh: { texts: ["早上好。车站在哪里？"], values: { target: "en" } },
  },
  extract: {
    en: { texts: ["Ada Lovelace was born in London on 10 December 1815."], values: { entities: "person, place, date" } },
    zh: { texts: ["钱学森1911年12月11日生于上海。"], values: { entities: "人物，地点，日期" } },
  },
  similar: {
    en: { texts: ["The cat sleeps.", "A dog barks.", "The stock fell."], values: { queries: "an animal rests", top: "2" } },
    zh: { texts: ["猫在睡觉。", "狗在叫。", "股票下跌。"], values: { queries: "一只动物在休息", top: "2" } },
  },
  group: {
    en: { texts: ["cats sleep", "dogs bark", "a cat naps", "shares fell", "bonds rose"], values: { groups: "2" } },
    zh: { texts: ["猫在睡觉", "狗在叫", "猫打盹", "股票下跌", "债券上涨"], values: { groups: "2" } },
  },
  generate: {
    en: { texts: ["Thank a customer for a long letter."], values: { most_words: "40" } },
    zh: { texts: ["感谢一位顾客写来的长信。"], values: { most_words: "60" } },
  },
  recommend: {
    en: { texts: ["tea, cup"], values: { recommender: "shop", n: "5" } },
    zh: { texts: ["茶，杯子"], values: { recommender: "shop", n: "5" } },
  },
  graph: {
    en: { texts: ["Who is the mother of Ada Lovelace?"], values: { graph: "people" } },
    zh: { texts: ["阿达·洛芙莱斯的母亲是谁？"], values: { graph: "people" } },
  },
};
